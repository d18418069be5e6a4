// A rank of any tensor-parallel size reads its part of any file layout, nothing else, and needs no memory for reading.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_sizes.h"
#include "engine/model/opt_weights.h"
#include "engine/model/sharding.h"
#include "kernels/backend.h"
#include "tests/support/golden_models.h"

namespace optserve {
namespace {

int64_t BytesOfAll(const std::vector<ByteRegion>& regions) {
  int64_t bytes = 0;
  for (const ByteRegion& region : regions) bytes += region.num_bytes();
  return bytes;
}

// What a rank must read by the table alone: its share of what is split, and all of what is not.
int64_t ExpectedBytes(const OptConfig& config, const OptTensors& tensors, const Shard& shard) {
  int64_t bytes = 0;
  const auto add = [&](int32_t layer, const TensorSpec& spec) {
    const CheckpointTensor* tensor = tensors.Find(layer, spec.role);
    if (tensor == nullptr) return;
    const auto whole = static_cast<int64_t>(tensor->view.num_bytes());
    if (spec.split == Split::kReplicated) {
      bytes += whole;
    } else if (spec.split == Split::kVocabulary) {
      bytes += whole / tensor->view.dims[0] * VocabRangeOf(config.vocab_size, shard).count;
    } else {
      bytes += whole / shard.size;
    }
  };
  for (const TensorSpec& spec : ModelTensors()) add(-1, spec);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const TensorSpec& spec : LayerTensors()) add(layer, spec);
  }
  return bytes;
}

std::vector<TensorView> ViewsOf(const OptWeights& weights) {
  std::vector<TensorView> views = {weights.embed_tokens, weights.embed_positions,   weights.project_in,
                                   weights.project_out,  weights.final_norm.weight, weights.final_norm.bias,
                                   weights.lm_head};
  for (const LayerWeights& layer : weights.layers) {
    views.insert(views.end(),
                 {layer.attn_norm.weight, layer.attn_norm.bias, layer.q.weight, layer.q.bias, layer.k.weight,
                  layer.k.bias, layer.v.weight, layer.v.bias, layer.out.weight, layer.out.bias, layer.ffn_norm.weight,
                  layer.ffn_norm.bias, layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias});
  }
  return views;
}

std::string Contents(const TensorView& view) {
  std::string bytes;
  const size_t row = static_cast<size_t>(view.row_size()) * SizeOf(view.dtype);
  for (int64_t i = 0; !view.empty() && i < view.dims[0]; ++i) bytes.append(view.Rows(i, 1).as<const char>(), row);
  return bytes;
}

// Overwrites the bytes of all tensors that are in none of `regions`. The mapping is private: the files stay as they
// are.
void Spoil(const Checkpoint& checkpoint, const std::vector<ByteRegion>& regions) {
  std::vector<std::pair<const std::byte*, const std::byte*>> kept;
  for (const ByteRegion& region : regions) {
    for (int64_t row = 0; row < region.rows; ++row) {
      const std::byte* begin = region.data + row * region.stride;
      kept.emplace_back(begin, begin + region.row_bytes);
    }
  }
  std::sort(kept.begin(), kept.end());
  const auto is_kept = [&](const std::byte* at) {
    auto after =
        std::upper_bound(kept.begin(), kept.end(), at, [](const std::byte* a, const auto& k) { return a < k.first; });
    return after != kept.begin() && at < std::prev(after)->second;
  };
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto spoil = [&](const TensorView& view) {
    const size_t row_bytes = static_cast<size_t>(view.row_size()) * SizeOf(view.dtype);
    for (int64_t row = 0; row < view.dims[0]; ++row) {
      auto* begin = view.Rows(row, 1).as<std::byte>();
      const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page;
      ASSERT_EQ(mprotect(reinterpret_cast<void*>(first), reinterpret_cast<uintptr_t>(begin) + row_bytes - first,
                         PROT_READ | PROT_WRITE),
                0);
      for (std::byte* at = begin; at < begin + row_bytes; ++at) {
        if (!is_kept(at)) *at = std::byte{0xff};
      }
    }
  };
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!tensor.view.empty()) spoil(tensor.view);
    for (const TensorTile& tile : tensor.tiles) spoil(tile.view);
  }
}

class ShardedLoading : public testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(ShardedLoading, ReadsOneRanksPartAndNoByteMore) {
  const auto& [name, size] = GetParam();
  const std::string directory = LoadGoldenModel(name).directory;
  const absl::StatusOr<OpenedModel> model = OpenModel(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  if (!CheckTensorParallelSize(model->config, size).ok()) return;  // of two heads, say
  const OptTensors tensors = *OptTensors::Match(model->config, *model->checkpoint);
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  for (int rank = 0; rank < size; ++rank) {
    const Shard shard{.rank = rank, .size = size};
    const std::vector<ByteRegion> regions = BytesOfShard(model->config, tensors, shard);
    EXPECT_EQ(BytesOfAll(regions), ExpectedBytes(model->config, tensors, shard));
    const OptWeights whole = *LoadOptWeights(model->config, tensors, shard, *backend);

    const OpenedModel spoilt = *OpenModel(directory);
    const OptTensors spoilt_tensors = *OptTensors::Match(spoilt.config, *spoilt.checkpoint);
    Spoil(*spoilt.checkpoint, BytesOfShard(spoilt.config, spoilt_tensors, shard));
    const OptWeights part = *LoadOptWeights(spoilt.config, spoilt_tensors, shard, *backend);
    const std::vector<TensorView> expected = ViewsOf(whole), actual = ViewsOf(part);
    ASSERT_EQ(expected.size(), actual.size());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(Contents(expected[i]), Contents(actual[i])) << "weight " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ShardedLoading,
                         testing::Combine(testing::ValuesIn(GoldenModelNames({"safetensors", "bin", "pt"})),
                                          testing::Values(1, 2, 4)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_tp" + std::to_string(std::get<1>(info.param));
                         });

// A published size in memory that is never touched, or only read, where the system has one page of zeros for all of it.
class ZeroCheckpoint {
 public:
  // `num_pieces` > 0: every layer is one row of numbers, cut into that many pieces, as FSDP stores it.
  ZeroCheckpoint(const OptConfig& config, int num_pieces) : num_pieces_(num_pieces) {
    for (const TensorSpec& spec : ModelTensors()) {
      const bool absent = spec.presence == Presence::kWithProjections || spec.presence == Presence::kUntied;
      if (!absent) Add(config, "model.decoder.", spec);
    }
    for (int32_t layer = 0; layer < config.num_layers; ++layer) {
      for (const TensorSpec& spec : LayerTensors())
        Add(config, "model.decoder.layers." + std::to_string(layer) + ".", spec);
    }
    EXPECT_TRUE(checkpoint_.Finish().ok());
  }
  ~ZeroCheckpoint() {
    for (const auto& [memory, bytes] : memory_) munmap(memory, bytes);
  }
  ZeroCheckpoint(const ZeroCheckpoint&) = delete;
  ZeroCheckpoint& operator=(const ZeroCheckpoint&) = delete;

  const Checkpoint& get() const { return checkpoint_; }

 private:
  void Add(const OptConfig& config, const std::string& prefix, const TensorSpec& spec) {
    const int64_t rows = SizeOfDim(config, spec.rows), columns = SizeOfDim(config, spec.columns);
    const size_t bytes = static_cast<size_t>(rows * columns) * 2;
    void* memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    memory_.emplace_back(memory, bytes);
    const bool is_vector = spec.columns == Dim::kNone;
    CheckpointTensor tensor{
        .name = prefix + spec.name,
        .view = is_vector ? MakeView(memory, DType::kF16, rows) : MakeView(memory, DType::kF16, rows, columns),
        .tiles = {},
        .file = "zeros"};
    if (num_pieces_ > 0) {
      for (int64_t piece = 0; piece < num_pieces_; ++piece) {
        const int64_t begin = rows * piece / num_pieces_, end = rows * (piece + 1) / num_pieces_;
        if (begin < end) tensor.tiles.push_back({.row = begin, .view = tensor.view.Rows(begin, end - begin)});
      }
      tensor.view.data = nullptr;
    }
    checkpoint_.Add(std::move(tensor));
  }

  int num_pieces_;
  MappedCheckpoint checkpoint_{"zeros", "zeros"};
  std::vector<std::pair<void*, size_t>> memory_;
};

OptConfig Published(const std::string& name) {
  for (const OptSize& size : OptSizes()) {
    if (size.name == name) return size.config;
  }
  ADD_FAILURE() << name;
  return {};
}

TEST(ShardedLoadingTest, ARankReadsAboutItsShareOfAPublishedModel) {
  const OptConfig config = Published("opt-13b");
  for (const int pieces : {0, 8}) {
    const ZeroCheckpoint zeros(config, pieces);
    const OptTensors tensors = *OptTensors::Match(config, zeros.get());
    for (const int size : {2, 4, 8}) {
      for (int rank = 0; rank < size; ++rank) {
        const int64_t bytes = BytesOfAll(BytesOfShard(config, tensors, {.rank = rank, .size = size}));
        EXPECT_LT(static_cast<double>(bytes) * size, 1.01 * static_cast<double>(tensors.num_bytes()));
      }
    }
  }
}

// A sanitizer's own memory would be counted too.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Private memory of this process, in bytes.
int64_t AnonymousBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  }
  ADD_FAILURE() << "no RssAnon";
  return 0;
}

TEST(ShardedLoadingTest, LoadingTakesNoMemoryBesideTheWeights) {
  const OptConfig config = Published("opt-125m");
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  for (const int pieces : {0, 3}) {  // 3: no tensor of a half lies in one place
    const ZeroCheckpoint zeros(config, pieces);
    const OptTensors tensors = *OptTensors::Match(config, zeros.get());
    const Shard shard{.rank = 1, .size = 2};
    const int64_t weight_bytes = pieces == 0 ? 0 : BytesOfAll(BytesOfShard(config, tensors, shard));
    const int64_t before = AnonymousBytes();
    int64_t peak = 0;
    std::mutex mu;
    const absl::StatusOr<OptWeights> weights =
        LoadOptWeights(config, tensors, shard, *backend, {.progress = [&](int64_t) {
                         const std::lock_guard lock(mu);
                         peak = std::max(peak, AnonymousBytes());
                       }});
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_LT(std::max(peak, AnonymousBytes()) - before, weight_bytes + (int64_t{16} << 20));
  }
}
#endif

}  // namespace
}  // namespace optserve
