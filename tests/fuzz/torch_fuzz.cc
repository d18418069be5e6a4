// A file of torch.save of either kind (the stream of before 1.6, a zip), read as a state_dict, as a part of metaseq and
// as a flattened shard of one. Tensors and tiles lie in the file; a shard's tiles cover their tensors.

#include <vector>

#include "engine/checkpoint/metaseq_part.h"
#include "engine/checkpoint/torch_archive.h"
#include "tests/fuzz/tensor_checks.h"

using namespace optserve;

namespace {

void CheckPart(const fuzz::InputFile& file, const MetaseqPart& part) {
  for (const auto& [name, tensor] : part.tensors) {
    __int128 covered = 0;
    for (const TensorTile& tile : tensor.tiles) {
      fuzz::CheckView(file, tile.view);
      const int64_t columns = tile.view.rank == 1 ? 1 : tile.view.row_size();
      FUZZ_CHECK(tile.row >= 0 && tile.column >= 0);
      FUZZ_CHECK(tile.view.dims[0] <= tensor.view.dims[0] - tile.row);
      FUZZ_CHECK(columns <= (tensor.view.rank == 1 ? 1 : tensor.view.row_size()) - tile.column);
      covered += static_cast<__int128>(tile.view.num_elements());
    }
    if (!tensor.tiles.empty()) FUZZ_CHECK(covered == tensor.view.num_elements());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::InputFile file("reshard.pt", fuzz::Text(data, size));
  if (!LooksLikeTorchFile(file.get())) return 0;
  auto archive = OpenTorchFile(file.get());
  if (!archive.ok()) return 0;
  const auto tensors = ReadStateDict(*archive);
  if (tensors.ok()) fuzz::CheckTensors(file, *tensors);
  const auto part = ReadMetaseqPart(*archive);
  if (part.ok()) CheckPart(file, *part);

  const auto model = FindMetaseqModel(*archive);
  if (!model.ok() || !IsFlattened(*archive, **model)) return 0;
  // The same shard twice: metadata and sizes then fit for an input that says two, and the tiles must still be right.
  auto twin = OpenTorchFile(file.get());
  std::vector<TorchArchive> shards;
  shards.push_back(*std::move(archive));
  const auto alone = ReadFlattenedPart(shards, /*num_parts=*/1);
  if (alone.ok()) CheckPart(file, *alone);
  shards.push_back(*std::move(twin));
  const auto pair = ReadFlattenedPart(shards, /*num_parts=*/1);
  if (pair.ok()) CheckPart(file, *pair);
  return 0;
}
