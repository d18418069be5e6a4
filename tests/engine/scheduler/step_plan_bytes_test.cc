#include "engine/scheduler/step_plan_bytes.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace optserve {
namespace {

class RandomPlans {
 public:
  StepPlan Next() {
    StepPlan plan;
    plan.step = random_();
    const int num_slices = Below(5);
    plan.num_decode = Below(num_slices + 1);
    for (int i = 0; i < num_slices; ++i) plan.slices.push_back(Slice());
    plan.token_ids = Ids();
    plan.zeroed_blocks = Ids();
    for (int i = Below(3); i > 0; --i) plan.block_copies.push_back({Id(), Id()});
    return plan;
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  int32_t Id() { return static_cast<int32_t>(random_()); }
  float Real() { return static_cast<float>(Id()) / 1000; }
  std::vector<int32_t> Ids() {
    std::vector<int32_t> ids(static_cast<size_t>(Below(6)));
    for (int32_t& id : ids) id = Id();
    return ids;
  }

  SequenceSlice Slice() {
    SequenceSlice slice;
    slice.sequence = random_();
    slice.num_tokens = Id();
    slice.num_cached = Id();
    slice.block_table = Ids();
    slice.wants_sample = Below(2) == 1;
    slice.sampling = {.temperature = Real(),
                      .top_k = Id(),
                      .top_p = Real(),
                      .min_p = Real(),
                      .typical_p = Real(),
                      .repetition_penalty = Real(),
                      .presence_penalty = Real(),
                      .frequency_penalty = Real(),
                      .seed = random_(),
                      .vocab_limit = Id(),
                      .num_logprobs = Id(),
                      .min_tokens = Id(),
                      .no_repeat_ngram_size = Id()};
    for (int i = Below(3); i > 0; --i) slice.sampling.logit_bias.emplace_back(Id(), Real());
    slice.choice = Id();
    slice.suppressed = Ids();
    for (int i = Below(3); i > 0; --i) slice.seen.push_back({Id(), Id()});
    slice.score_begin = Id();
    slice.score_targets = Ids();
    slice.num_score_logprobs = Id();
    return slice;
  }

  std::mt19937_64 random_{1};
};

void ExpectSame(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.num_decode, b.num_decode);
  EXPECT_EQ(a.token_ids, b.token_ids);
  EXPECT_EQ(a.zeroed_blocks, b.zeroed_blocks);
  ASSERT_EQ(a.block_copies.size(), b.block_copies.size());
  for (size_t i = 0; i < a.block_copies.size(); ++i) {
    EXPECT_EQ(a.block_copies[i].src, b.block_copies[i].src);
    EXPECT_EQ(a.block_copies[i].dst, b.block_copies[i].dst);
  }
  ASSERT_EQ(a.slices.size(), b.slices.size());
  for (size_t i = 0; i < a.slices.size(); ++i) {
    const SequenceSlice& x = a.slices[i];
    const SequenceSlice& y = b.slices[i];
    EXPECT_EQ(x.sequence, y.sequence);
    EXPECT_EQ(x.num_tokens, y.num_tokens);
    EXPECT_EQ(x.num_cached, y.num_cached);
    EXPECT_EQ(x.block_table, y.block_table);
    EXPECT_EQ(x.wants_sample, y.wants_sample);
    EXPECT_EQ(x.sampling, y.sampling);
    EXPECT_EQ(x.choice, y.choice);
    EXPECT_EQ(x.suppressed, y.suppressed);
    ASSERT_EQ(x.seen.size(), y.seen.size());
    for (size_t k = 0; k < x.seen.size(); ++k) {
      EXPECT_EQ(x.seen[k].id, y.seen[k].id);
      EXPECT_EQ(x.seen[k].generated, y.seen[k].generated);
    }
    EXPECT_EQ(x.score_begin, y.score_begin);
    EXPECT_EQ(x.score_targets, y.score_targets);
    EXPECT_EQ(x.num_score_logprobs, y.num_score_logprobs);
  }
}

TEST(StepPlanBytesTest, APlanIsTheSameOnTheOtherSide) {
  RandomPlans plans;
  for (int i = 0; i < 200; ++i) {
    const StepPlan plan = plans.Next();
    const absl::StatusOr<StepPlan> decoded = DecodeStepPlan(EncodeStepPlan(plan));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ExpectSame(plan, *decoded);
  }
}

TEST(StepPlanBytesTest, WhatIsNotAllOfAPlanIsRefused) {
  RandomPlans plans;
  for (int i = 0; i < 20; ++i) {
    const std::string bytes = EncodeStepPlan(plans.Next());
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_FALSE(DecodeStepPlan(std::string_view(bytes).substr(0, size)).ok()) << size << " of " << bytes.size();
    }
    EXPECT_FALSE(DecodeStepPlan(bytes + "x").ok());
  }
}

TEST(StepPlanBytesTest, ALengthThatIsTooLargeTakesNoMemory) {
  std::string bytes = EncodeStepPlan(StepPlan());
  for (size_t at = 12; at + 4 <= bytes.size(); at += 4) {  // behind step and num_decode: the lengths of five lists
    std::string broken = bytes;
    for (size_t i = at; i < at + 4; ++i) broken[i] = '\xff';
    EXPECT_FALSE(DecodeStepPlan(broken).ok()) << at;
  }
}

}  // namespace
}  // namespace optserve
