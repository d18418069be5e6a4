#include "engine/executor/step_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace optserve {
namespace {

using testing::ElementsAre;

template <typename T = int32_t>
std::vector<T> Values(const TensorView& view) {
  return std::vector<T>(view.as<T>(), view.as<T>() + view.num_elements());
}

// Two decodes, a middle chunk of a prompt that is scored, and a whole prompt that is sampled and scored.
StepPlan Plan() {
  StepPlan plan{.step = 5, .num_decode = 2};
  plan.slices = {
      {.sequence = 1, .num_tokens = 1, .num_cached = 4, .block_table = {7, 2, 3}, .wants_sample = true, .choice = 3},
      {.sequence = 2, .num_tokens = 1, .num_cached = 2, .block_table = {5}, .wants_sample = true},
      {.sequence = 3, .num_tokens = 3, .num_cached = 5, .block_table = {1, 9}, .score_begin = 1},
      {.sequence = 4, .num_tokens = 2, .block_table = {8}, .wants_sample = true},
  };
  plan.slices[0].sampling.num_logprobs = 4;
  plan.slices[0].sampling.logit_bias = {{11, 0.5f}, {12, -0.5f}};
  plan.slices[0].seen = {{21, 1}, {22, 0}};
  plan.slices[1].suppressed = {2, 31};
  plan.slices[1].seen = {{23, 2}};
  plan.slices[2].score_targets = {41, 42};
  plan.slices[2].num_score_logprobs = 2;
  plan.slices[3].score_targets = {43};
  plan.token_ids = {100, 101, 102, 103, 104, 105, 106};
  plan.block_copies = {{.src = 6, .dst = 7}, {.src = 4, .dst = 5}};
  return plan;
}

class StepInputsTest : public testing::Test {
 protected:
  StepInputsTest() : backend_(*MakeBackend({.num_threads = 1})) {}

  std::unique_ptr<Backend> backend_;
  StepInputs inputs_;
};

TEST_F(StepInputsTest, PacksAPlan) {
  ASSERT_TRUE(inputs_.Set(Plan(), /*block_size=*/4, *backend_).ok());
  EXPECT_THAT(Values(inputs_.token_ids), ElementsAre(100, 101, 102, 103, 104, 105, 106));
  EXPECT_THAT(Values(inputs_.positions), ElementsAre(4, 2, 5, 6, 7, 0, 1));
  EXPECT_THAT(Values(inputs_.slots), ElementsAre(2 * 4, 5 * 4 + 2, 9 * 4 + 1, 9 * 4 + 2, 9 * 4 + 3, 8 * 4, 8 * 4 + 1));
  EXPECT_THAT(Values(inputs_.copy_src), ElementsAre(6, 4));
  EXPECT_THAT(Values(inputs_.copy_dst), ElementsAre(7, 5));

  EXPECT_EQ(inputs_.num_tokens, 7);
  EXPECT_EQ(inputs_.num_sequences, 4);
  EXPECT_EQ(inputs_.num_decode, 2);
  EXPECT_THAT(Values(inputs_.block_tables), ElementsAre(7, 2, 3, 5, 0, 0, 1, 9, 0, 8, 0, 0));
  EXPECT_THAT(Values(inputs_.context_lens), ElementsAre(5, 3, 8, 2));
  EXPECT_THAT(Values(inputs_.decode_starts), ElementsAre(0, 1, 2));
  EXPECT_THAT(Values(inputs_.prefill_starts), ElementsAre(0, 3, 5));
  EXPECT_EQ(inputs_.max_decode_context, 5);
  EXPECT_EQ(inputs_.max_prefill_context, 8);

  EXPECT_THAT(Values(inputs_.logit_rows), ElementsAre(0, 1, 6, /*scored:*/ 3, 4, 5));
  EXPECT_THAT(inputs_.sampled_slices, ElementsAre(0, 1, 3));
  EXPECT_THAT(inputs_.num_top, ElementsAre(4, 0, 0));
  EXPECT_THAT(Values(inputs_.targets), ElementsAre(41, 42, 43));
  EXPECT_EQ(inputs_.score_rows[1].slice, 2);
  EXPECT_EQ(inputs_.score_rows[1].num_top, 2);
  EXPECT_EQ(inputs_.score_rows[2].slice, 3);
}

TEST_F(StepInputsTest, PacksWhatChangesTheDistribution) {
  ASSERT_TRUE(inputs_.Set(Plan(), 4, *backend_).ok());
  const SampleRow& first = inputs_.sample_rows[0];
  EXPECT_EQ(first.position, 5);  // the token to be drawn comes behind five others
  EXPECT_EQ(first.choice, 3);
  EXPECT_EQ(first.num_top, 4);
  ASSERT_EQ(first.counts_end - first.counts_begin, 2);
  EXPECT_EQ(inputs_.counts[first.counts_begin].id, 21);
  EXPECT_EQ(inputs_.counts[first.counts_begin].generated, 1);
  ASSERT_EQ(first.bias_end - first.bias_begin, 2);
  EXPECT_EQ(inputs_.bias[first.bias_begin + 1].id, 12);
  EXPECT_EQ(inputs_.bias[first.bias_begin + 1].bias, -0.5f);
  EXPECT_EQ(first.suppressed_end - first.suppressed_begin, 0);

  const SampleRow& second = inputs_.sample_rows[1];
  ASSERT_EQ(second.counts_end - second.counts_begin, 1);
  EXPECT_EQ(inputs_.counts[second.counts_begin].id, 23);
  ASSERT_EQ(second.suppressed_end - second.suppressed_begin, 2);
  EXPECT_EQ(inputs_.suppressed[second.suppressed_begin + 1], 31);
  EXPECT_EQ(second.bias_end - second.bias_begin, 0);
}

TEST_F(StepInputsTest, AllocatesNothingForAPlanNoLargerThanOneBefore) {
  ASSERT_TRUE(inputs_.Set(Plan(), 4, *backend_).ok());
  const void* before = inputs_.token_ids.data;
  StepPlan small = Plan();
  small.slices.resize(2);
  small.token_ids.resize(2);
  ASSERT_TRUE(inputs_.Set(small, 4, *backend_).ok());
  EXPECT_EQ(inputs_.token_ids.data, before);
  ASSERT_TRUE(inputs_.Set(Plan(), 4, *backend_).ok());
  EXPECT_EQ(inputs_.token_ids.data, before);
}

TEST_F(StepInputsTest, GrowsForALargerPlan) {
  ASSERT_TRUE(inputs_.Set(Plan(), 4, *backend_).ok());
  StepPlan large;
  for (int32_t i = 0; i < 500; ++i) {
    large.slices.push_back({.sequence = static_cast<uint64_t>(i), .num_tokens = 3, .block_table = {i}});
    for (int32_t t = 0; t < 3; ++t) large.token_ids.push_back(3 * i + t);
  }
  ASSERT_TRUE(inputs_.Set(large, 4, *backend_).ok());
  EXPECT_EQ(Values(inputs_.token_ids), large.token_ids);
  EXPECT_EQ(Values(inputs_.slots).back(), 499 * 4 + 2);
  EXPECT_EQ(inputs_.num_samples, 0);
}

// Ids that the step before draws are named by the row of its samples: its third slice drew none, so the fourth is
// row 2.
TEST_F(StepInputsTest, NamesDrawnIdsByTheirRow) {
  std::vector<int32_t> drawn(4);
  inputs_.drawn = MakeView(drawn.data(), DType::kI32, 4);
  ASSERT_TRUE(inputs_.Set(Plan(), 4, *backend_).ok());
  StepPlan next{.step = 6, .num_decode = 3};
  for (int32_t i = 0; i < 3; ++i) {
    next.slices.push_back({.num_tokens = 1, .num_cached = 2, .block_table = {i}, .wants_sample = i != 1});
  }
  next.token_ids = {DrawnBySlice(3), 77, DrawnBySlice(0)};
  ASSERT_TRUE(inputs_.Set(next, 4, *backend_).ok());
  EXPECT_THAT(Values(inputs_.token_ids), ElementsAre(~2, 77, ~0));
  next.token_ids = {DrawnBySlice(2), 78, 79};
  ASSERT_TRUE(inputs_.Set(next, 4, *backend_).ok());
  EXPECT_THAT(Values(inputs_.token_ids), ElementsAre(~1, 78, 79));
}

// Two decodes, as a graph of four rows sees them.
StepPlan Decodes(int32_t first_id, int32_t seen) {
  StepPlan plan{.step = 7, .num_decode = 2};
  plan.slices = {{.sequence = 1, .num_tokens = 1, .num_cached = 4, .block_table = {7, 2}, .wants_sample = true},
                 {.sequence = 2, .num_tokens = 1, .num_cached = 2, .block_table = {5}, .wants_sample = true}};
  for (int32_t i = 0; i < seen; ++i) plan.slices[1].seen.push_back({i + 20, 1});
  plan.slices[1].sampling.logit_bias = {{11, 0.5f}};
  plan.slices[0].suppressed = {31};
  plan.token_ids = {first_id, first_id + 1};
  return plan;
}

TEST_F(StepInputsTest, FillsUpAFixedShape) {
  ASSERT_TRUE(inputs_.Set(Decodes(100, 1), 4, *backend_, {.rows = 4, .blocks = 3}).ok());
  EXPECT_EQ(inputs_.num_tokens, 4);
  EXPECT_EQ(inputs_.num_sequences, 4);
  EXPECT_EQ(inputs_.num_decode, 4);
  EXPECT_EQ(inputs_.num_samples, 4);
  EXPECT_EQ(inputs_.max_decode_context, 12);
  EXPECT_THAT(Values(inputs_.token_ids), ElementsAre(100, 101, 0, 0));
  EXPECT_THAT(Values(inputs_.positions), ElementsAre(4, 2, 0, 0));
  EXPECT_THAT(Values(inputs_.slots), ElementsAre(2 * 4, 5 * 4 + 2, -1, -1));
  EXPECT_THAT(Values(inputs_.block_tables), ElementsAre(7, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(Values(inputs_.context_lens), ElementsAre(5, 3, 0, 0));
  EXPECT_THAT(Values(inputs_.decode_starts), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Values(inputs_.logit_rows), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(inputs_.sampled_slices, ElementsAre(0, 1));
  EXPECT_EQ(inputs_.sample_rows[3].temperature, 0.0f);
  EXPECT_EQ(inputs_.sample_rows[3].counts_begin, inputs_.sample_rows[3].counts_end);
}

TEST_F(StepInputsTest, OfOneShapeEverythingLiesWhereItLayBefore) {
  const StepLimits limits{.max_tokens = 64, .max_sequences = 4, .max_context = 12, .block_size = 4};
  ASSERT_TRUE(inputs_.Plan(limits, *backend_).ok());
  const FixedShape shape{.rows = 4, .blocks = limits.max_blocks()};
  const auto places = [&] {
    return std::vector<const void*>{inputs_.token_ids.data,
                                    inputs_.positions.data,
                                    inputs_.slots.data,
                                    inputs_.block_tables.data,
                                    inputs_.context_lens.data,
                                    inputs_.decode_starts.data,
                                    inputs_.logit_rows.data,
                                    inputs_.sample_rows,
                                    inputs_.counts,
                                    inputs_.bias,
                                    inputs_.suppressed};
  };
  ASSERT_TRUE(inputs_.Set({}, 4, *backend_, shape).ok());
  const std::vector<const void*> captured = places();
  for (const int32_t seen : {0, 9, 3}) {
    StepPlan plan = Decodes(50 + seen, seen);
    plan.block_copies.resize(seen == 3 ? 20 : 0);  // answers that fork off the first of their request
    ASSERT_TRUE(inputs_.Set(plan, 4, *backend_, shape).ok());
    EXPECT_TRUE(inputs_.is_planned());
    EXPECT_EQ(places(), captured);
    const SampleRow& row = inputs_.sample_rows[1];
    ASSERT_EQ(row.counts_end - row.counts_begin, seen);
    if (seen > 0) {
      EXPECT_EQ(inputs_.counts[row.counts_end - 1].id, seen - 1 + 20);
    }
    EXPECT_EQ(inputs_.bias[row.bias_begin].id, 11);
    EXPECT_EQ(inputs_.suppressed[inputs_.sample_rows[0].suppressed_begin], 31);
  }
  // A request with more biases than memory is planned for: elsewhere, and back again.
  StepPlan large = Decodes(1, 0);
  for (int32_t id = 0; id < 20'000; ++id) large.slices[0].sampling.logit_bias.emplace_back(id, 1.0f);
  ASSERT_TRUE(inputs_.Set(large, 4, *backend_, shape).ok());
  EXPECT_FALSE(inputs_.is_planned());
  EXPECT_EQ(inputs_.bias[inputs_.sample_rows[0].bias_end - 1].id, 19'999);
  ASSERT_TRUE(inputs_.Set(Decodes(1, 0), 4, *backend_, shape).ok());
  EXPECT_EQ(places(), captured);
}

// The largest plan within the limits: as many tokens and sequences as may be, full contexts, all of it seen before.
TEST_F(StepInputsTest, PlansForTheLargestStep) {
  const StepLimits limits{.max_tokens = 40, .max_sequences = 8, .max_context = 30, .block_size = 4};
  ASSERT_TRUE(inputs_.Plan(limits, *backend_).ok());
  StepPlan plan{.step = 1};
  for (int32_t i = 0; i < 8; ++i) {
    SequenceSlice slice{.sequence = static_cast<uint64_t>(i) + 1,
                        .num_tokens = 5,
                        .num_cached = 25,
                        .block_table = std::vector<int32_t>(8, i),
                        .wants_sample = true};
    slice.score_targets = {1, 2, 3, 4};
    for (int32_t t = 0; t < 30; ++t) slice.seen.push_back({t, 1}), slice.suppressed.push_back(t);
    plan.token_ids.insert(plan.token_ids.end(), 5, i);
    plan.slices.push_back(slice);
    plan.block_copies.push_back({.src = i, .dst = i + 8});
  }
  ASSERT_TRUE(inputs_.Set(plan, 4, *backend_).ok());
  EXPECT_TRUE(inputs_.is_planned());
}

using StepInputsDeathTest = StepInputsTest;

TEST_F(StepInputsDeathTest, APlanThatContradictsItselfIsOurBug) {
  StepPlan short_table = Plan();
  short_table.slices[2].block_table.pop_back();
  EXPECT_DEATH((void)inputs_.Set(short_table, 4, *backend_), "sequence 3 has 1 blocks for 8 tokens");
  StepPlan too_many_tokens = Plan();
  too_many_tokens.token_ids.push_back(1);
  EXPECT_DEATH((void)inputs_.Set(too_many_tokens, 4, *backend_), "tokens of no slice");
  StepPlan drawn = Plan();
  drawn.token_ids[0] = DrawnBySlice(2);
  EXPECT_DEATH((void)inputs_.Set(drawn, 4, *backend_), "nobody keeps what steps draw");
  int32_t ids[4] = {};
  inputs_.drawn = MakeView(ids, DType::kI32, 4);
  ASSERT_TRUE(inputs_.Set(Plan(), 4, *backend_).ok());
  EXPECT_DEATH((void)inputs_.Set(drawn, 4, *backend_), "slice 2 drew nothing");
}

}  // namespace
}  // namespace optserve
