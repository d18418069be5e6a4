#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

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
  std::string_view file;
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
        "{}: its parameters are flattened, but shard_metadata has no list param_metadata that says how", archive.file);
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

// A shard's piece, as it is stored: with its padding.
absl::StatusOr<TensorView> ReadPiece(const TorchArchive& shard, const std::string& prefix) {
  const Pickle& pickle = shard.pickle;
  const std::string key = prefix + std::string(kFlat);
  OPTSERVE_ASSIGN_OR_RETURN(const PickleValue* model, FindMetaseqModel(shard));
  for (size_t i = 0; i + 1 < model->items.size(); i += 2) {
    if (pickle.at(model->items[i]).text != key) continue;
    absl::StatusOr<TensorView> view = ReadTorchTensor(shard, model->items[i + 1]);
    if (!view.ok()) return Within(fmt::format("{}: tensor {}", shard.file, Printable(key)), view.status());
    if (view->rank == 1 && view->is_contiguous()) return view;
    return InvalidArgument("{}: tensor {} is not a vector", shard.file, Printable(key));
  }
  return InvalidArgument("{}: tensor {} is missing", shard.file, Printable(key));
}

// The same without the padding that the shard's metadata states.
absl::StatusOr<TensorView> ReadPiece(const TorchArchive& shard, const FlatMetadata& metadata) {
  OPTSERVE_ASSIGN_OR_RETURN(const TensorView view, ReadPiece(shard, metadata.prefix));
  const PickleValue* padding = shard.pickle.Find(*metadata.params, "padding");
  const int64_t padded = padding == nullptr ? 0 : padding->number;
  if (padded >= 0 && padded <= view.dims[0]) return view.Rows(0, view.dims[0] - padded);
  return InvalidArgument("{}: tensor {}{} is not a vector with {} elements of padding", shard.file,
                         Printable(metadata.prefix), kFlat, padded);
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
    tiles.push_back({.row = in_tensor / columns, .column = in_tensor % columns, .view = view, .file = piece.file});
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

// --- files without shard_metadata ---------------------------------------------------------------------------------

constexpr int64_t kPositionRows = 2050;
constexpr int64_t kMostHidden = 1 << 16;

// What a layer of every OPT but 350M is made of, in the order in which fairscale flattened it.
FlatLayout LayerLayout(const std::string& prefix, int64_t hidden, int64_t num_parts) {
  const int64_t part = hidden / num_parts;
  return {.prefix = prefix,
          .names = {"self_attn.qkv_proj.weight", "self_attn.qkv_proj.bias", "self_attn.out_proj.weight",
                    "self_attn.out_proj.bias", "self_attn_layer_norm.weight", "self_attn_layer_norm.bias", "fc1.weight",
                    "fc1.bias", "fc2.weight", "fc2.bias", "final_layer_norm.weight", "final_layer_norm.bias"},
          .shapes = {{3 * part, hidden},
                     {3 * part},
                     {hidden, part},
                     {hidden},
                     {hidden},
                     {hidden},
                     {4 * part, hidden},
                     {4 * part},
                     {hidden, 4 * part},
                     {hidden},
                     {hidden},
                     {hidden}}};
}

FlatLayout RootLayout(int64_t hidden, int64_t vocabulary_rows) {
  return {.prefix = "",
          .names = {"decoder.embed_tokens.weight", "decoder.embed_positions.weight", "decoder.layer_norm.weight",
                    "decoder.layer_norm.bias"},
          .shapes = {{vocabulary_rows, hidden}, {kPositionRows, hidden}, {hidden}, {hidden}}};
}

int64_t NumElements(const FlatLayout& layout) {
  int64_t count = 0;
  for (const std::vector<int64_t>& shape : layout.shapes) count += shape[0] * (shape.size() == 1 ? 1 : shape[1]);
  return count;
}

// The hidden size of which a layer has so many elements, but for padding that is shorter than one element a shard.
std::optional<int64_t> HiddenSizeOf(int64_t layer_elements, int64_t num_shards, int64_t num_parts) {
  for (int64_t hidden = num_parts; hidden <= kMostHidden; hidden += num_parts) {
    const int64_t padding = layer_elements - NumElements(LayerLayout("", hidden, num_parts));
    if (padding < 0) return std::nullopt;
    if (padding < num_shards) return hidden;
  }
  return std::nullopt;
}

// Prefixes of the flattened parameters.
absl::StatusOr<std::vector<std::string>> FlatPrefixes(const TorchArchive& shard) {
  OPTSERVE_ASSIGN_OR_RETURN(const PickleValue* model, FindMetaseqModel(shard));
  std::vector<std::string> prefixes;
  for (size_t i = 0; i + 1 < model->items.size(); i += 2) {
    const std::string_view key = shard.pickle.at(model->items[i]).text;
    if (key.ends_with(kFlat)) prefixes.emplace_back(key.substr(0, key.size() - kFlat.size()));
  }
  return prefixes;
}

absl::StatusOr<MetaseqPart> ReadUndescribedPart(const std::vector<TorchArchive>& shards, int64_t num_parts) {
  MetaseqPart part{.file = std::string(shards[0].file), .tensors = {}};
  struct Flat {
    std::string prefix;
    std::vector<Piece> pieces;
    int64_t elements = 0;
  };
  std::vector<Flat> flats;
  std::optional<int64_t> hidden;
  OPTSERVE_ASSIGN_OR_RETURN(const std::vector<std::string> prefixes, FlatPrefixes(shards[0]));
  const auto num_shards = static_cast<int64_t>(shards.size());
  for (const std::string& prefix : prefixes) {
    Flat& flat = flats.emplace_back(Flat{.prefix = prefix});
    for (const TorchArchive& shard : shards) {
      OPTSERVE_ASSIGN_OR_RETURN(const TensorView view, ReadPiece(shard, prefix));
      if (!flat.pieces.empty() && view.dtype != flat.pieces[0].view.dtype) {
        return InvalidArgument("{}: {}{} is of another dtype than in {}", shard.file, Printable(prefix), kFlat,
                               part.file);
      }
      flat.pieces.push_back({.begin = flat.elements, .view = view, .file = shard.file});
      flat.elements += view.dims[0];
    }
    if (!prefix.empty() && !hidden) hidden = HiddenSizeOf(flat.elements, num_shards, num_parts);
  }
  for (Flat& flat : flats) {
    const int64_t rows = hidden ? flat.elements / *hidden - kPositionRows - 2 : 0;
    const FlatLayout layout = flat.prefix.empty() ? RootLayout(hidden.value_or(1), rows)
                                                  : LayerLayout(flat.prefix, hidden.value_or(num_parts), num_parts);
    const int64_t padding = flat.elements - NumElements(layout);
    if (!hidden || (flat.prefix.empty() && rows <= 0) || padding < 0 || padding >= num_shards) {
      return InvalidArgument(
          "{}: its parameters are flattened, there is no shard_metadata that says how, and {}{} with {} elements in {} "
          "parts is of no OPT",
          part.file, Printable(flat.prefix), kFlat, flat.elements, num_parts);
    }
    int64_t left = flat.elements - padding;
    for (Piece& piece : flat.pieces) {
      piece.view = piece.view.Rows(0, std::clamp<int64_t>(left, 0, piece.view.dims[0]));
      left -= piece.view.dims[0];
    }
    OPTSERVE_RETURN_IF_ERROR(AddTensors(layout, flat.pieces, &part));
  }
  return part;
}

}  // namespace

bool IsFlattened(const TorchArchive& archive, const PickleValue& model) {
  for (size_t i = 0; i + 1 < model.items.size(); i += 2) {
    if (archive.pickle.at(model.items[i]).text.ends_with(kFlat)) return true;
  }
  return false;
}

absl::StatusOr<MetaseqPart> ReadFlattenedPart(const std::vector<TorchArchive>& shards, size_t num_parts) {
  const Pickle& first = shards[0].pickle;
  if (first.Find(first.at(first.root()), "shard_metadata") == nullptr) {
    return ReadUndescribedPart(shards, static_cast<int64_t>(num_parts));
  }
  MetaseqPart part{.file = std::string(shards[0].file), .tensors = {}};
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
      pieces.push_back({.begin = begin, .view = view, .file = shards[s].file});
      begin += view.dims[0];
    }
    OPTSERVE_RETURN_IF_ERROR(AddTensors(layout, pieces, &part));
  }
  return part;
}

}  // namespace optserve
