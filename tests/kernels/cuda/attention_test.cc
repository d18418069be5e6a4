#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "kernels/attention/paged_attention.h"
#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

struct Sequence {
  int32_t context_len;
  int32_t num_queries;
};

class CudaAttentionTest : public CudaTest {
 protected:
  struct Data {
    Mirror q, out, k, v, tables, starts, lens;
    PagedAttentionParams host, device;
  };

  // Sequences whose blocks lie in random order among blocks of garbage. What no sequence owns is NaN and forbidden.
  Data MakeData(const std::vector<Sequence>& sequences, int64_t heads, int64_t head_size, int64_t block_size,
                float scale = 1.0f, float mean_of_keys = 0.0f) {
    int64_t per_table = 0, num_blocks = 3, num_tokens = 0;
    std::vector<int32_t> starts = {0}, lens;
    for (const Sequence& s : sequences) {
      const int64_t blocks = (s.context_len + block_size - 1) / block_size;
      per_table = std::max(per_table, blocks);
      num_blocks += blocks;
      num_tokens += s.num_queries;
      starts.push_back(static_cast<int32_t>(num_tokens));
      lens.push_back(s.context_len);
    }
    std::vector<int32_t> order(num_blocks), tables;
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 random(7);
    std::shuffle(order.begin(), order.end(), random);
    const int64_t width = heads * block_size * head_size;
    Data data{Make(DType::kF16, num_tokens, heads * head_size, 2 * heads * head_size),
              Make(DType::kF16, num_tokens, heads * head_size, 6),
              Make(DType::kF16, num_blocks, width),
              Make(DType::kF16, num_blocks, width),
              Make(DType::kI32, static_cast<int64_t>(sequences.size()), per_table),
              Ids(starts),
              Ids(lens),
              {},
              {}};
    data.q.Randomize(3, scale);
    std::normal_distribution<float> normal;
    const auto fill_nan = [](const Mirror& m) {
      std::fill_n(m.host().as<uint16_t>(), m.host().num_elements(), uint16_t{0x7e00});
    };
    fill_nan(data.k);
    fill_nan(data.v);
    std::set<int64_t> owned;  // rows of a head
    size_t next = 0;
    for (const Sequence& s : sequences) {
      const size_t table = tables.size();
      for (int64_t b = 0; b < per_table; ++b) {
        tables.push_back(b * block_size < s.context_len ? order[next++] : 1'000'000);
      }
      for (int32_t j = 0; j < s.context_len; ++j) {
        const int64_t block = tables[table + j / block_size];
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t row = (block * heads + h) * block_size + j % block_size;
          owned.insert(row);
          for (int64_t d = 0; d < head_size; ++d) {
            data.k.Set(row * head_size + d, normal(random) + mean_of_keys);
            data.v.Set(row * head_size + d, normal(random));
          }
        }
      }
    }
    data.tables.Fill(tables);
    data.k.Upload();
    data.v.Upload();
    for (int64_t row = 0; row < num_blocks * heads * block_size; ++row) {
      if (owned.contains(row)) continue;
      data.k.Forbid(row * head_size, head_size);
      data.v.Forbid(row * head_size, head_size);
    }
    const auto params = [&](auto of, auto vector_of) {
      const auto cache = [&](const Mirror& m) {
        return MakeView(of(m).data, DType::kF16, num_blocks, heads, block_size, head_size);
      };
      return PagedAttentionParams{.out = AsHeads(of(data.out), heads),
                                  .q = AsHeads(of(data.q), heads),
                                  .k_cache = cache(data.k),
                                  .v_cache = cache(data.v),
                                  .block_tables = of(data.tables),
                                  .query_starts = vector_of(data.starts),
                                  .context_lens = vector_of(data.lens),
                                  .max_context_len = *std::max_element(lens.begin(), lens.end()),
                                  .scale = 1.0f / std::sqrt(static_cast<float>(head_size))};
    };
    data.host = params([](const Mirror& m) { return m.host(); }, [](const Mirror& m) { return m.host_vector(); });
    data.device = params([](const Mirror& m) { return m.device(); }, [](const Mirror& m) { return m.device_vector(); });
    return data;
  }

  void Expect(Data& data, bool decode, double bound = 2e-3) {
    const std::vector<double> expected = reference::PagedAttention(data.host);
    decode ? cuda::PagedDecode(ctx_, data.device) : cuda::PagedPrefill(ctx_, data.device);
    data.out.Download();
    const TensorView& out = data.out.host();
    for (int64_t t = 0; t < out.dims[0]; ++t) {
      for (int64_t i = 0; i < out.dims[1]; ++i) {
        const double wanted = expected[t * out.dims[1] + i];
        ASSERT_NEAR(reference::At(out, t, i), wanted, bound * (1.0 + std::abs(wanted)))
            << "head size " << data.host.q.dims[2] << ", block size " << data.host.k_cache.dims[2] << " [" << t << ", "
            << i << "]";
      }
    }
  }

  // Both prefill kernels, or on a GPU the one that it runs.
  std::vector<int> SmVersions() const {
    return kOnGpu ? std::vector<int>{ctx_.info.sm_version} : std::vector<int>{70, 80};
  }
};

TEST_F(CudaAttentionTest, DecodeMatchesReference) {
  for (const int64_t head_size : {16, 32, 64, 80, 128}) {
    for (const int64_t block_size : {1, 5, 16}) {
      // One token, the edges of a block, of a piece of 128 tokens, and several pieces.
      Data data =
          MakeData({{1, 1}, {16, 1}, {17, 1}, {127, 1}, {128, 1}, {129, 1}, {300, 1}}, 2, head_size, block_size);
      Expect(data, /*decode=*/true);
      Expect(data, /*decode=*/true);  // the counters are zero again
    }
  }
}

TEST_F(CudaAttentionTest, DecodeOfMoreSequencesThanTheWorkspaceHolds) {
  constexpr int64_t kFloats = 3 * 2 * 2 * (64 + 2);  // of three sequences, two heads, two pieces
  Mirror workspace = Make(DType::kF32, 1, kFloats);
  std::byte* const own = std::exchange(ctx_.workspace, workspace.device().as<std::byte>());
  ctx_.workspace_bytes = kFloats * sizeof(float);
  Data data = MakeData({{200, 1}, {3, 1}, {129, 1}, {1, 1}, {256, 1}, {131, 1}, {2, 1}}, 2, 64, 16);
  Expect(data, /*decode=*/true);
  ctx_.workspace = own;
}

TEST_F(CudaAttentionTest, DecodeOfMoreSequencesThanThereAreCounters) {
  Mirror counters = Ids(std::vector<int32_t>(5, 0));  // of two sequences of two heads
  uint32_t* const own = std::exchange(ctx_.counters, counters.device().as<uint32_t>());
  ctx_.num_counters = 5;
  Data data = MakeData({{200, 1}, {3, 1}, {129, 1}, {140, 1}, {256, 1}}, 2, 64, 16);
  Expect(data, /*decode=*/true);
  ctx_.counters = own;
}

// In a captured step: a sequence of nobody among others, and pieces planned for contexts that are not there.
TEST_F(CudaAttentionTest, DecodeFillsRowsOfNobodyWithZeros) {
  for (const int64_t head_size : {64, 80, 128}) {
    Data data = MakeData({{3, 1}, {150, 1}, {1, 1}}, 2, head_size, 16);
    Data with_nobody = MakeData({{3, 1}, {150, 1}, {1, 1}}, 2, head_size, 16);
    const int32_t none = 0;
    std::memcpy(with_nobody.lens.host().as<int32_t>() + 2, &none, sizeof(none));
    with_nobody.lens.Upload();
    cuda::PagedDecode(ctx_, data.device);
    with_nobody.device.max_context_len = 160;
    cuda::PagedDecode(ctx_, with_nobody.device);
    data.out.Download(), with_nobody.out.Download();
    for (int64_t i = 0; i < 2 * head_size; ++i) {
      for (const int64_t t : {0, 1}) {
        ASSERT_EQ(reference::At(with_nobody.out.host(), t, i), reference::At(data.out.host(), t, i));
      }
      ASSERT_EQ(reference::At(with_nobody.out.host(), 2, i), 0.0);
    }
  }
}

TEST_F(CudaAttentionTest, ADecodingSequenceHasTheSameBitsInAnyBatch) {
  Data alone = MakeData({{290, 1}}, 2, 64, 16);
  cuda::PagedDecode(ctx_, alone.device);
  alone.out.Download();
  Data batch = MakeData({{290, 1}, {5, 1}, {400, 1}}, 2, 64, 16);
  // The same numbers in the other pool.
  for (int64_t d = 0; d < 128; ++d) batch.q.Set(d, static_cast<float>(reference::At(alone.q.host(), 0, d)));
  batch.q.Upload();
  for (int32_t j = 0; j < 290; ++j) {
    for (int64_t h = 0; h < 2; ++h) {
      const auto at = [&](const Data& data) {
        return ((static_cast<int64_t>(reference::At(data.tables.host(), 0, j / 16)) * 2 + h) * 16 + j % 16) * 64;
      };
      for (int64_t d = 0; d < 64; ++d) {
        batch.k.host().as<F16>()[at(batch) + d] = alone.k.host().as<F16>()[at(alone) + d];
        batch.v.host().as<F16>()[at(batch) + d] = alone.v.host().as<F16>()[at(alone) + d];
      }
    }
  }
  // Copying in would touch what is forbidden; the rows that nobody owns may be touched again.
  batch.k.Forbid(0, batch.k.host().num_elements(), false);
  batch.v.Forbid(0, batch.v.host().num_elements(), false);
  batch.k.Upload();
  batch.v.Upload();
  cuda::PagedDecode(ctx_, batch.device);
  batch.out.Download();
  for (int64_t i = 0; i < 128; ++i)
    ASSERT_EQ(reference::At(batch.out.host(), 0, i), reference::At(alone.out.host(), 0, i));
}

TEST_F(CudaAttentionTest, PrefillMatchesReference) {
  for (const int sm_version : SmVersions()) {
    ctx_.info.sm_version = sm_version;
    for (const int64_t head_size : {16, 32, 64, 80, 128}) {
      Data data = MakeData({{1, 1}, {16, 1}, {33, 4}, {65, 65}, {130, 66}}, 2, head_size, 16);
      Expect(data, /*decode=*/false);
    }
    for (const int64_t block_size : {1, 5}) {
      Data data = MakeData({{40, 33}, {64, 64}}, 1, 64, block_size);
      Expect(data, /*decode=*/false);
    }
  }
}

TEST_F(CudaAttentionTest, LargeScoresDoNotOverflow) {
  for (const int sm_version : SmVersions()) {
    ctx_.info.sm_version = sm_version;
    Data data = MakeData({{50, 3}}, 1, 64, 16, /*scale=*/1000.0f);
    Expect(data, /*decode=*/false, 1e-2);
  }
  Data data = MakeData({{50, 1}, {200, 1}, {250, 1}, {256, 1}, {300, 1}}, 2, 64, 16, /*scale=*/1000.0f);
  Expect(data, /*decode=*/true, 1e-2);
}

// So far that their exponentials are 0: a maximum that begins at 0 makes 0 / 0 of them.
TEST_F(CudaAttentionTest, ScoresFarBelowZero) {
  const auto make = [&](const std::vector<Sequence>& sequences) {
    Data data = MakeData(sequences, 1, 64, 16, 1.0f, /*mean_of_keys=*/-8.0f);
    for (int64_t t = 0; t < data.q.host().dims[0]; ++t) {
      for (int64_t d = 0; d < 64; ++d) data.q.Set(t * data.q.host().row_stride + d, 4.0f);
    }
    data.q.Upload();
    return data;
  };
  for (const int sm_version : SmVersions()) {
    ctx_.info.sm_version = sm_version;
    Data data = make({{50, 3}, {70, 70}});
    Expect(data, /*decode=*/false, 1e-2);
  }
  Data data = make({{50, 1}, {200, 1}});
  Expect(data, /*decode=*/true, 1e-2);
}

}  // namespace
}  // namespace optserve
