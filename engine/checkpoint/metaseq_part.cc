#include "engine/checkpoint/metaseq_part.h"

#include <fmt/format.h>

#include <utility>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {

bool IsIgnoredByMetaseq(std::string_view name) {
  return name == "decoder.version" || name == "decoder.output_projection.weight";
}

absl::StatusOr<const PickleValue*> FindMetaseqModel(const TorchArchive& archive) {
  const PickleValue* model = archive.pickle.Find(archive.pickle.at(archive.pickle.root()), "model");
  if (model == nullptr || model->kind != PickleKind::kDict) {
    return InvalidArgument("{}: there is no dictionary `model` in it, so it is no checkpoint of metaseq", archive.file);
  }
  return model;
}

absl::StatusOr<MetaseqPart> ReadMetaseqPart(const TorchArchive& archive) {
  const Pickle& pickle = archive.pickle;
  OPTSERVE_ASSIGN_OR_RETURN(const PickleValue* model, FindMetaseqModel(archive));
  MetaseqPart part{.file = std::string(archive.file), .tensors = {}};
  for (size_t i = 0; i + 1 < model->items.size(); i += 2) {
    const PickleValue& key = pickle.at(model->items[i]);
    if (key.kind != PickleKind::kString) return InvalidArgument("{}: a key that is not a string", archive.file);
    if (IsIgnoredByMetaseq(key.text)) continue;
    const std::string name(key.text);
    absl::StatusOr<TensorView> view = ReadTorchTensor(archive, model->items[i + 1]);
    if (!view.ok()) return Within(fmt::format("{}: tensor {}", archive.file, Printable(name)), view.status());
    CheckpointTensor tensor{
        .name = name, .view = *view, .tiles = {{.view = *view, .file = archive.file}}, .file = part.file};
    tensor.view.data = nullptr;
    if (!part.tensors.emplace(name, std::move(tensor)).second) {
      return InvalidArgument("{}: tensor {} is there twice", archive.file, Printable(name));
    }
  }
  return part;
}

}  // namespace optserve
