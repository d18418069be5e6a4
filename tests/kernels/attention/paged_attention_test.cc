#include "kernels/attention/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <numeric>

#include "tests/support/kernel_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

// Some sequences with their queries and a pool in which their blocks lie in random order among blocks of garbage.
class Data {
 public:
  struct Sequence {
    int32_t context_len;
    int32_t num_queries;
  };

  Data(const std::vector<Sequence>& sequences, int64_t heads, int64_t head_size, int64_t block_size, uint32_t seed)
      : num_tokens_(0), heads_(heads), head_size_(head_size) {
    int64_t blocks_per_table = 0, num_blocks = 3;
    for (const Sequence& s : sequences) {
      const int64_t blocks = (s.context_len + block_size - 1) / block_size;
      blocks_per_table = std::max(blocks_per_table, blocks);
      num_blocks += blocks;
      num_tokens_ += s.num_queries;
    }
    std::vector<int32_t> order(num_blocks);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 random(seed);
    std::shuffle(order.begin(), order.end(), random);
    k_ = std::make_unique<TestTensor>(DType::kF32, num_blocks, heads * block_size * head_size);
    v_ = std::make_unique<TestTensor>(DType::kF32, num_blocks, heads * block_size * head_size);
    // Everything that no sequence owns is NaN: reading it shows in the result.
    std::fill_n(k_->f32(), k_->view().num_elements(), std::nanf(""));
    std::fill_n(v_->f32(), v_->view().num_elements(), std::nanf(""));
    q_ = std::make_unique<TestTensor>(DType::kF32, num_tokens_, heads * head_size, 2 * heads * head_size);
    starts_ = {0};
    size_t next = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      // A sequence's numbers are a function of i and the position alone, so that another split gives the same.
      const int32_t first = sequences[i].context_len - sequences[i].num_queries;
      for (int64_t b = 0; b < blocks_per_table; ++b) {
        const bool used = b * block_size < sequences[i].context_len;
        tables_.push_back(used ? order[next++] : 1'000'000);
      }
      for (int32_t j = 0; j < sequences[i].context_len; ++j) {
        std::minstd_rand numbers(static_cast<uint32_t>(1000 * i + j + 1));
        std::normal_distribution<float> normal;
        const int64_t block = tables_[i * blocks_per_table + j / block_size];
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t d = 0; d < head_size; ++d) {
            const int64_t at = ((block * heads + h) * block_size + j % block_size) * head_size + d;
            k_->f32()[at] = normal(numbers);
            v_->f32()[at] = normal(numbers);
            const float q = normal(numbers);
            if (j >= first) q_->view().Rows(starts_.back() + j - first, 1).as<float>()[h * head_size + d] = q;
          }
        }
      }
      starts_.push_back(starts_.back() + sequences[i].num_queries);
      lens_.push_back(sequences[i].context_len);
    }
    out_ = std::make_unique<TestTensor>(DType::kF32, num_tokens_, heads * head_size);
    TensorView table = ViewOf(tables_);
    params_ = {
        .out = Heads(*out_),
        .q = Heads(*q_),
        .k_cache = MakeView(k_->f32(), DType::kF32, num_blocks, heads, block_size, head_size),
        .v_cache = MakeView(v_->f32(), DType::kF32, num_blocks, heads, block_size, head_size),
        .block_tables = MakeView(table.data, DType::kI32, static_cast<int64_t>(sequences.size()), blocks_per_table),
        .query_starts = ViewOf(starts_),
        .context_lens = ViewOf(lens_),
        .max_context_len = *std::max_element(lens_.begin(), lens_.end()),
        .scale = 1.0f / std::sqrt(static_cast<float>(head_size))};
  }

  const PagedAttentionParams& params() const { return params_; }
  std::vector<float> Run(const CpuContext& ctx, bool decode = false) const {
    decode ? cpu::PagedDecode(ctx, params_) : cpu::PagedPrefill(ctx, params_);
    return {out_->f32(), out_->f32() + num_tokens_ * heads_ * head_size_};
  }

 private:
  TensorView Heads(const TestTensor& tensor) const {
    TensorView view = tensor.view();
    view.rank = 3;
    view.dims = {num_tokens_, heads_, head_size_, 0};
    return view;
  }

  int64_t num_tokens_, heads_, head_size_;
  std::unique_ptr<TestTensor> k_, v_, q_, out_;
  std::vector<int32_t> tables_, starts_, lens_;
  PagedAttentionParams params_;
};

class PagedAttentionTest : public testing::TestWithParam<CpuIsa> {};

TEST_P(PagedAttentionTest, MatchesReferenceAtShapesThatBite) {
  const CpuContext ctx = MakeContext(GetParam());
  for (const int64_t head_size : {8, 16, 24, 64, 80, 128, 136}) {
    for (const int64_t block_size : {1, 5, 16}) {
      const Data data({{1, 1}, {16, 1}, {17, 17}, {33, 4}, {40, 33}, {64, 2}, {65, 3}}, 3, head_size, block_size, 7);
      const std::vector<double> expected = reference::PagedAttention(data.params());
      const std::vector<float> got = data.Run(ctx);
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], 1e-5)
            << "head size " << head_size << " block size " << block_size << " at " << i;
      }
    }
  }
}

TEST_P(PagedAttentionTest, DecodeMatchesReference) {
  const CpuContext ctx = MakeContext(GetParam());
  for (const int64_t head_size : {64, 80, 128}) {
    const Data data({{1, 1}, {31, 1}, {32, 1}, {33, 1}, {300, 1}}, 2, head_size, 16, 7);
    const std::vector<double> expected = reference::PagedAttention(data.params());
    const std::vector<float> got = data.Run(ctx, /*decode=*/true);
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5);
  }
}

// Random sequences, each cut into random chunks, in random company, blocks and threads: always the bits of one pass.
// Chunks of one query go through PagedDecode.
TEST_P(PagedAttentionTest, BitsDependOnTheSequenceAlone) {
  std::mt19937 random(3);
  const auto pick = [&](int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
  };
  const std::array<CpuContext, 3> contexts = {MakeContext(GetParam(), 1), MakeContext(GetParam(), 2),
                                              MakeContext(GetParam(), 3)};
  for (int round = 0; round < 24; ++round) {
    const int64_t head_size = std::array{8, 40, 64, 80, 128, 72}[round % 6];
    const int64_t heads = pick(1, 3), width = heads * head_size;
    const int32_t length = pick(1, 110);
    const int64_t block_size = pick(1, 20);
    const std::vector<float> whole = Data({{length, length}}, heads, head_size, block_size, random()).Run(contexts[0]);
    for (int32_t begin = 0; begin < length;) {
      const int32_t size = std::min(length - begin, pick(0, 2) == 0 ? 1 : pick(1, 50));
      std::vector<Data::Sequence> sequences = {{begin + size, size}};
      const int company = pick(0, 2);
      for (int i = 0; i < company; ++i) sequences.push_back({pick(40, 60), size == 1 ? 1 : pick(1, 40)});
      const Data data(sequences, heads, head_size, block_size, random());
      const std::vector<float> got = data.Run(contexts[pick(0, 2)], /*decode=*/size == 1);
      for (int64_t i = 0; i < size * width; ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(whole[begin * width + i]))
            << "round " << round << ": queries " << begin << " to " << begin + size << " of " << length
            << ", head size " << head_size << ", element " << i;
      }
      begin += size;
    }
  }
}

TEST_P(PagedAttentionTest, OutMayBeTheQueries) {
  const CpuContext ctx = MakeContext(GetParam());
  for (const int32_t num_queries : {1, 40}) {
    const Data data({{50, num_queries}, {33, 1}}, 2, 64, 16, 1);
    const std::vector<float> apart = data.Run(ctx);
    PagedAttentionParams p = data.params();
    p.out = p.q;
    cpu::PagedPrefill(ctx, p);
    for (int64_t t = 0; t <= num_queries; ++t) {
      for (int64_t i = 0; i < 128; ++i) ASSERT_EQ(p.out.Rows(t, 1).as<float>()[i], apart[t * 128 + i]);
    }
  }
}

TEST(PagedAttentionIsaTest, Avx2AndAvx512GiveTheSameBits) {
  if (DetectCpuIsa() != CpuIsa::kAvx512) return;  // nothing to compare
  for (const int64_t head_size : {24, 64, 80, 128}) {
    const Data data({{90, 45}, {70, 1}, {40, 10}}, 2, head_size, 16, 1);
    EXPECT_EQ(data.Run(MakeContext(CpuIsa::kAvx2)), data.Run(MakeContext(CpuIsa::kAvx512)));
  }
}

TEST(PagedAttentionDeathTest, AContextLongerThanItsBlockTableIsABug) {
  const CpuContext ctx = MakeContext(DetectCpuIsa(), 1);
  const Data data({{16, 1}}, 1, 64, 16, 1);
  PagedAttentionParams p = data.params();
  std::vector<int32_t> context_lens = {17};
  p.context_lens = ViewOf(context_lens);
  EXPECT_DEATH(cpu::PagedDecode(ctx, p), "sequence 0: queries 0 to 1, context 17");
}

TEST_P(PagedAttentionTest, LargeScoresDoNotOverflow) {
  const CpuContext ctx = MakeContext(GetParam());
  Data data({{50, 3}}, 1, 64, 16, 1);
  for (int64_t t = 0; t < 3; ++t) {
    float* q = data.params().q.Rows(t, 1).as<float>();
    for (int d = 0; d < 64; ++d) q[d] *= 1e4f;
  }
  const std::vector<double> expected = reference::PagedAttention(data.params());
  const std::vector<float> got = data.Run(ctx);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-3);
}

INSTANTIATE_TEST_SUITE_P(Isas, PagedAttentionTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return IsaName(info.param); });

}  // namespace
}  // namespace optserve
