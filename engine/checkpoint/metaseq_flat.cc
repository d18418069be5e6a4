#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/checkpoint/checked_size.h"
#include "engine/checkpoint/metaseq_part.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr std::string_view kFlat = "flat_param_0";

// One shard's piece of a flattened parameter, without padding.
struct Piece {
  int64_t begin = 0;  // elements before it
  TensorView view;    // [n]
};

// Which tensors a flattened parameter is made of.
struct FlatLayout {
  std::string prefix;  // "decoder.layers.0." or nothing
  std::vector<std::string> names;
  std::vector<std::vector<int64_t>> shapes;
};

// A tuple of sizes, or torch.Size of one.
std::optional<std::vector<int64_t>> ReadShape(const Pickle& pickle, PickleId id) {
  const PickleValue* value = &pickle.at(id);
  if (value->kind == PickleKind::kCall && pickle.IsGlobal(value->items[0], "torch", "Size")) {
    const PickleValue& arguments = pickle.at(value->items[1]);
    if (arguments.items.size() != 1) return std::nullopt;
    value = &pickle.at(arguments.items[0]);
  }
  if (value->kind != PickleKind::kTuple || value->items.empty() || value->items.size() > 2) return std::nullopt;
  std::vector<int64_t> shape;
  for (const PickleId item : value->items) {
    if (pickle.at(item).kind != PickleKind::kInt || pickle.at(item).number < 0) return std::nullopt;
    shape.push_back(pickle.at(item).number);
  }
  return shape;
}

// The description of one flattened parameter in shard_metadata: {names, shapes, padding}.
struct FlatMetadata {
  std::string prefix;
  const PickleValue* params = nullptr;
};

// shard_metadata["param_metadata"]: a list of {fsdp_path, params: {flat_param_0: {...}}}.
absl::StatusOr<std::vector<FlatMetadata>> ReadMetadata(const TorchArchive& archive) {
  const Pickle& pickle = archive.pickle;
  const PickleValue* metadata = pickle.Find(pickle.at(pickle.root()), "shard_metadata");
  const PickleValue* list = metadata == nullptr ? nullptr : pickle.Find(*metadata, "param_metadata");
  if (list == nullptr || list->kind != PickleKind::kList) {
    return InvalidArgument(
        "{}: its parameters are flattened, but there is no shard_metadata that says how; convert it with metaseq's "
        "reshard_fsdp first",
        archive.file);
  }
  std::vector<FlatMetadata> entries;
  for (const PickleId id : list->items) {
    const PickleValue* path = pickle.Find(pickle.at(id), "fsdp_path");
    const PickleValue* params = pickle.Find(pickle.at(id), "params");
    const PickleValue* flat = params == nullptr ? nullptr : pickle.Find(*params, kFlat);
    if (path == nullptr || path->kind != PickleKind::kString || flat == nullptr) {
      return InvalidArgument("{}: shard_metadata describes no {}", archive.file, kFlat);
    }
    entries.push_back({.prefix = path->text.empty() ? "" : std::string(path->text) + ".", .params = flat});
  }
  return entries;
}

absl::StatusOr<FlatLayout> ReadLayout(const TorchArchive& archive, const FlatMetadata& metadata) {
  const Pickle& pickle = archive.pickle;
  const PickleValue* names = pickle.Find(*metadata.params, "names");
  const PickleValue* shapes = pickle.Find(*metadata.params, "shapes");
  if (names == nullptr || shapes == nullptr || names->items.size() != shapes->items.size()) {
    return InvalidArgument("{}: shard_metadata of {}{} has not as many names as shapes", archive.file,
                           Printable(metadata.prefix), kFlat);
  }
  FlatLayout layout{.prefix = metadata.prefix, .names = {}, .shapes = {}};
  for (size_t i = 0; i < names->items.size(); ++i) {
    const PickleValue& name = pickle.at(names->items[i]);
    std::optional<std::vector<int64_t>> shape = ReadShape(pickle, shapes->items[i]);
    if (name.kind != PickleKind::kString || !shape) {
      return InvalidArgument("{}: shard_metadata of {}{} has a name or shape that is none", archive.file,
                             Printable(metadata.prefix), kFlat);
    }
    layout.names.emplace_back(name.text);
    layout.shapes.push_back(*std::move(shape));
  }
  return layout;
}

// A shard's piece, with the padding cut off that its own metadata states.
absl::StatusOr<TensorView> ReadPiece(const TorchArchive& shard, const FlatMetadata& metadata) {
  const Pickle& pickle = shard.pickle;
  const std::string key = metadata.prefix + std::string(kFlat);
  OPTSERVE_ASSIGN_OR_RETURN(const PickleValue* model, FindMetaseqModel(shard));
  for (size_t i = 0; i + 1 < model->items.size(); i += 2) {
    if (pickle.at(model->items[i]).text != key) continue;
    absl::StatusOr<TensorView> view = ReadTorchTensor(shard, model->items[i + 1]);
    if (!view.ok()) return Within(shard.file + ": tensor " + Printable(key), view.status());
    const PickleValue* padding = pickle.Find(*metadata.params, "padding");
    const int64_t padded = padding == nullptr ? 0 : padding->number;
    if (view->rank != 1 || !view->is_contiguous() || padded < 0 || padded > view->dims[0]) {
      return InvalidArgument("{}: tensor {} is not a vector with {} elements of padding", shard.file, Printable(key),
                             padded);
    }
    return view->Rows(0, view->dims[0] - padded);
  }
  return InvalidArgument("{}: tensor {} is missing", shard.file, Printable(key));
}

// The tiles of a tensor that is the elements [begin, begin + rows * columns) of the flattened parameter. What one piece
// has of it is up to three rectangles: the end of a row, whole rows, and the beginning of a row.
std::vector<TensorTile> CutTiles(const std::vector<Piece>& pieces, int64_t begin, int64_t rows, int64_t columns,
                                 bool is_vector) {
  std::vector<TensorTile> tiles;
  const int64_t end = begin + rows * columns;
  const auto add = [&](const Piece& piece, int64_t from, int64_t num_rows, int64_t width) {
    const int64_t in_tensor = from - begin;
    TensorView view = piece.view.Rows(from - piece.begin, num_rows * width);
    if (!is_vector) view = MakeView(view.data, view.dtype, num_rows, width);
    tiles.push_back({.row = in_tensor / columns, .column = in_tensor % columns, .view = view});
  };
  for (const Piece& piece : pieces) {
    int64_t at = std::max(begin, piece.begin);
    const int64_t piece_end = std::min(end, piece.begin + piece.view.dims[0]);
    if (at >= piece_end) continue;
    const int64_t in_row = (at - begin) % columns;
    if (in_row != 0) {
      const int64_t width = std::min(columns - in_row, piece_end - at);
      add(piece, at, 1, width);
      at += width;
    }
    if (const int64_t whole = (piece_end - at) / columns; whole > 0) {
      add(piece, at, whole, columns);
      at += whole * columns;
    }
    if (at < piece_end) add(piece, at, 1, piece_end - at);
  }
  return tiles;
}

// Cuts a flattened parameter into its tensors.
absl::Status AddTensors(const FlatLayout& layout, const std::vector<Piece>& pieces, MetaseqPart* part) {
  const int64_t total = pieces.back().begin + pieces.back().view.dims[0];
  int64_t begin = 0;
  for (size_t i = 0; i < layout.names.size(); ++i) {
    const std::string name = layout.prefix + layout.names[i];
    const std::vector<int64_t>& shape = layout.shapes[i];
    const bool is_vector = shape.size() == 1;
    const int64_t rows = shape[0], columns = is_vector ? 1 : shape[1];
    const CheckedSize count = CheckedSize(static_cast<uint64_t>(rows)) * static_cast<uint64_t>(columns);
    if (columns == 0 || !(count <= static_cast<uint64_t>(total - begin))) {
      return InvalidArgument("{}: tensor {} reaches beyond the flattened parameter of {} elements", part->file,
                             Printable(name), total);
    }
    const DType dtype = pieces[0].view.dtype;
    CheckpointTensor tensor{
        .name = name,
        .view = is_vector ? MakeView(nullptr, dtype, rows) : MakeView(nullptr, dtype, rows, columns),
        .tiles = CutTiles(pieces, begin, rows, columns, is_vector),
        .file = part->file};
    begin += rows * columns;
    if (IsIgnoredByMetaseq(name)) continue;
    if (!part->tensors.emplace(name, std::move(tensor)).second) {
      return InvalidArgument("{}: tensor {} is there twice", part->file, Printable(name));
    }
  }
  if (begin != total) {
    return InvalidArgument("{}: {}{} has {} elements more than its tensors", part->file, Printable(layout.prefix),
                           kFlat, total - begin);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsFlattened(const TorchArchive& archive, const PickleValue& model) {
  for (size_t i = 0; i + 1 < model.items.size(); i += 2) {
    if (archive.pickle.at(model.items[i]).text.ends_with(kFlat)) return true;
  }
  return false;
}

absl::StatusOr<MetaseqPart> ReadFlattenedPart(const std::vector<TorchArchive>& shards) {
  MetaseqPart part{.file = shards[0].file, .tensors = {}};
  std::vector<std::vector<FlatMetadata>> metadata;  // [shard][parameter]
  for (const TorchArchive& shard : shards) {
    OPTSERVE_ASSIGN_OR_RETURN(std::vector<FlatMetadata> entries, ReadMetadata(shard));
    if (!metadata.empty() && entries.size() != metadata[0].size()) {
      return InvalidArgument("{}: describes {} parameters, but {} describes {}", shard.file, entries.size(), part.file,
                             metadata[0].size());
    }
    metadata.push_back(std::move(entries));
  }
  for (size_t i = 0; i < metadata[0].size(); ++i) {
    OPTSERVE_ASSIGN_OR_RETURN(const FlatLayout layout, ReadLayout(shards[0], metadata[0][i]));
    std::vector<Piece> pieces;
    int64_t begin = 0;
    for (size_t s = 0; s < shards.size(); ++s) {
      if (metadata[s][i].prefix != layout.prefix) {
        return InvalidArgument("{}: describes the parameters in another order than {}", shards[s].file, part.file);
      }
      OPTSERVE_ASSIGN_OR_RETURN(const TensorView view, ReadPiece(shards[s], metadata[s][i]));
      if (!pieces.empty() && view.dtype != pieces[0].view.dtype) {
        return InvalidArgument("{}: {}{} is of another dtype than in {}", shards[s].file, layout.prefix, kFlat,
                               part.file);
      }
      pieces.push_back({.begin = begin, .view = view});
      begin += view.dims[0];
    }
    OPTSERVE_RETURN_IF_ERROR(AddTensors(layout, pieces, &part));
  }
  return part;
}

}  // namespace optserve
