#include "kernels/sampling/candidates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "tests/support/reference.h"

namespace optserve {
namespace {

std::vector<Candidate> CandidatesOf(const std::vector<float>& logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  std::vector<Candidate> candidates;
  for (size_t id = 0; id < logits.size(); ++id) {
    candidates.push_back({std::exp(logits[id] - largest), logits[id], static_cast<int32_t>(id)});
  }
  return candidates;
}

std::set<int32_t> Kept(std::vector<Candidate> candidates, const SampleRow& row) {
  double total = 0.0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  const int64_t count = KeepCandidates(candidates, total, row);
  std::set<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.insert(candidates[i].id);
  EXPECT_EQ(static_cast<int64_t>(ids.size()), count);
  return ids;
}

std::set<int32_t> KeptByReference(const std::vector<float>& logits, const SampleRow& row) {
  const std::vector<double> distribution = reference::SamplingDistribution(logits, row);
  std::set<int32_t> ids;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (distribution[id] > 0.0) ids.insert(static_cast<int32_t>(id));
  }
  return ids;
}

TEST(CandidatesTest, CutsKeepExactlyTheReferencesSet) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::normal_distribution<float> normal(0.0f, 0.5f + static_cast<float>(round % 5));
    std::vector<float> logits(1 + random() % 700);
    for (float& logit : logits) logit = normal(random);
    if (round % 3 == 0) {
      for (float& logit : logits) logit = std::round(2.0f * logit) / 2.0f;  // ties everywhere
    }
    const auto unit = [&] { return std::uniform_real_distribution<float>(0.01f, 0.99f)(random); };
    SampleRow row;
    if (round % 2 == 0) row.top_k = 1 + static_cast<int32_t>(random() % logits.size());
    if (round % 3 != 1) row.top_p = unit();
    if (round % 5 == 0) row.min_p = unit() * 0.2f;
    if (round % 4 == 3) row.typical_p = unit();
    std::vector<Candidate> candidates = CandidatesOf(logits);
    std::shuffle(candidates.begin(), candidates.end(), random);
    ASSERT_EQ(Kept(candidates, row), KeptByReference(logits, row))
        << "round " << round << ": top_k " << row.top_k << " top_p " << row.top_p << " min_p " << row.min_p
        << " typical_p " << row.typical_p << " of " << logits.size();
  }
}

TEST(CandidatesTest, TheTokenThatCrossesTopPIsKept) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.125f), std::log(0.125f)};
  EXPECT_THAT(Kept(CandidatesOf(logits), {.top_p = 0.49f}), testing::ElementsAre(0));
  EXPECT_THAT(Kept(CandidatesOf(logits), {.top_p = 0.51f}), testing::ElementsAre(0, 1));
  EXPECT_THAT(Kept(CandidatesOf(logits), {.top_p = 0.76f}), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(Kept(CandidatesOf(logits), {.top_p = 1e-9f}), testing::ElementsAre(0));
}

TEST(CandidatesTest, TiesAtTheCutGoToTheLowestId) {
  const std::vector<float> logits(400, 1.0f);  // more than are sorted at once
  const std::set<int32_t> half = Kept(CandidatesOf(logits), {.top_p = 0.5f});
  EXPECT_EQ(half.size(), 200u);
  EXPECT_EQ(*half.rbegin(), 199);
  EXPECT_THAT(Kept(CandidatesOf(logits), {.top_k = 3}), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(Kept(CandidatesOf(logits), {.typical_p = 0.004f}), testing::ElementsAre(0, 1));
}

// Two logits so close that their weights are one number: the larger logit is the better one all the same.
TEST(CandidatesTest, TopKGoesByLogitsWhereWeightsAreEqual) {
  std::vector<Candidate> candidates = {{1.0f, 5.0f, 0}, {1.0f, std::nextafter(5.0f, 6.0f), 1}, {0.5f, 4.0f, 2}};
  EXPECT_THAT(Kept(candidates, {.top_k = 1}), testing::ElementsAre(1));
}

// Of a peak and many unlikely tokens, typical sampling keeps those whose surprise is nearest to the entropy.
TEST(CandidatesTest, TypicalPMayDropTheMostLikelyToken) {
  std::vector<float> logits(11, std::log(0.06f));
  logits[0] = std::log(0.4f);
  EXPECT_EQ(Kept(CandidatesOf(logits), {.typical_p = 0.3f}).count(0), 0u);
  EXPECT_EQ(Kept(CandidatesOf(logits), {.typical_p = 0.9f}).count(0), 1u);
}

TEST(CandidatesTest, DrawGoesThroughIdsInOrder) {
  const std::vector<Candidate> candidates = {{0.5f, 0.0f, 9}, {0.25f, 0.0f, 2}, {0.0f, 0.0f, 1}, {0.25f, 0.0f, 4}};
  const auto draw = [&](double uniform) {
    std::vector<Candidate> copy = candidates;
    return Draw(copy, uniform);
  };
  EXPECT_EQ(draw(0.0), 2);
  EXPECT_EQ(draw(0.249), 2);
  EXPECT_EQ(draw(0.25), 4);
  EXPECT_EQ(draw(0.499), 4);
  EXPECT_EQ(draw(0.5), 9);
  EXPECT_EQ(draw(std::nextafter(1.0, 0.0)), 9);
}

}  // namespace
}  // namespace optserve
