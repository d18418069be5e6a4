#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/sampling/philox.h"
#include "kernels/sampling/sampling.h"
#include "tests/support/reference.h"

// What Sample and Score promise, whichever backend computes them: cases that the tests of each run on their own.

namespace optserve {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Logits = std::vector<float>;

inline Logits RandomLogits(size_t size, uint32_t seed, float scale = 2.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  Logits logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// What came of one row.
struct Sampled {
  int32_t id = -1;  // of Sample
  float logprob = 0.0f;
  bool finite = false;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

// The lists that rows have ranges of.
struct SampleLists {
  std::vector<TokenCount> counts;
  std::vector<LogitBias> bias;
  std::vector<int32_t> suppressed;
};

// A backend's ops on rows of the host's memory.
class Sampler {
 public:
  virtual ~Sampler() = default;
  virtual std::vector<Sampled> Sample(const std::vector<Logits>& logits, const std::vector<SampleRow>& rows,
                                      const SampleLists& lists = {}) = 0;
  virtual std::vector<Sampled> Score(const std::vector<Logits>& logits, std::vector<int32_t> targets,
                                     int32_t num_top) = 0;

  // The row has all of the lists.
  Sampled SampleOne(const Logits& logits, SampleRow row, const SampleLists& lists = {}) {
    row.counts_end = static_cast<int32_t>(lists.counts.size());
    row.bias_end = static_cast<int32_t>(lists.bias.size());
    row.suppressed_end = static_cast<int32_t>(lists.suppressed.size());
    return Sample({logits}, {row}, lists)[0];
  }
};

// ---------------------------------------------------------------- the row as it is

inline void ExpectLogprobsOfTheUnmodifiedDistribution(Sampler& sampler, const std::vector<size_t>& sizes) {
  for (const size_t size : sizes) {
    const Logits logits = RandomLogits(size, 1);
    const std::vector<double> expected = reference::LogSoftmax(logits);
    const int32_t num_top = static_cast<int32_t>(std::min<size_t>(size, 20));
    // The bias decides which token is chosen and must not show in what is reported.
    const Sampled sampled =
        sampler.SampleOne(logits, {.temperature = 0.0f, .num_top = num_top}, {.bias = {{0, 100.0f}}});
    EXPECT_EQ(sampled.id, 0);
    EXPECT_NEAR(sampled.logprob, expected[0], 1e-5);
    std::vector<int32_t> order(size);
    for (size_t i = 0; i < size; ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int32_t i = 0; i < num_top; ++i) {
      EXPECT_EQ(sampled.top_ids[i], order[i]);
      EXPECT_NEAR(sampled.top_logprobs[i], expected[order[i]], 1e-5);
    }
  }
}

inline void ExpectTiesToTheLowestId(Sampler& sampler) {
  Logits logits(1000);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = static_cast<float>(id % 100);
  const Sampled sampled = sampler.SampleOne(logits, {.temperature = 0.0f, .num_top = 12});
  EXPECT_THAT(sampled.top_ids, testing::ElementsAre(99, 199, 299, 399, 499, 599, 699, 799, 899, 999, 98, 198));
  EXPECT_EQ(sampled.id, 99);
  // top_k = 1 leaves the lowest, whatever the draw.
  EXPECT_EQ(sampler.SampleOne(logits, {.temperature = 1.0f, .top_k = 1, .seed = 9}).id, 99);
  Logits zeros(40, -0.0f);
  zeros[3] = 0.0f;  // equal to the others
  EXPECT_EQ(sampler.SampleOne(zeros, {.temperature = 0.0f}).id, 0);
}

inline void ExpectScoresWithTheBitsOfSample(Sampler& sampler) {
  const Logits logits = RandomLogits(1097, 3), other = RandomLogits(1097, 4);
  const Sampled sampled = sampler.SampleOne(logits, {.temperature = 0.0f, .num_top = 5});
  EXPECT_EQ(sampled.id, sampled.top_ids[0]);
  EXPECT_EQ(sampled.logprob, sampled.top_logprobs[0]);
  Logits bad = logits;
  bad[1000] = kInfinity;
  const std::vector<Sampled> scored = sampler.Score({logits, other, logits, bad}, {sampled.id, 9, 7, 7}, 5);
  EXPECT_EQ(scored[0].logprob, sampled.logprob);
  EXPECT_EQ(scored[0].top_ids, sampled.top_ids);
  EXPECT_NEAR(scored[1].logprob, reference::LogSoftmax(other)[9], 1e-5);
  EXPECT_NEAR(scored[2].logprob, reference::LogSoftmax(logits)[7], 1e-5);
  EXPECT_EQ(scored[2].top_logprobs, sampled.top_logprobs);
  EXPECT_TRUE(scored[0].finite && scored[1].finite && scored[2].finite);
  EXPECT_FALSE(scored[3].finite);
}

inline void ExpectRowsThatAreNotFiniteFlaggedAlone(Sampler& sampler) {
  const Logits good = RandomLogits(600, 4);
  std::vector<Logits> logits(8, good);
  logits[1][599] = std::nanf("");
  logits[2][0] = kInfinity;
  logits[3].assign(600, -kInfinity);
  logits[4][50] = -kInfinity;  // an ordinary impossible token
  logits[5][13] = -std::nanf("");
  logits[6][7] = std::nanf("");  // and of the same thread a number: 7 + 512
  const std::vector<Sampled> results = sampler.Sample(logits, std::vector<SampleRow>(8, {.seed = 5, .num_top = 2}));
  const std::vector<bool> expected = {true, false, false, false, true, false, false, true};
  for (size_t r = 0; r < 8; ++r) EXPECT_EQ(results[r].finite, expected[r]) << r;
  EXPECT_EQ(results[7].id, results[0].id);
  EXPECT_EQ(results[7].logprob, results[0].logprob);
}

// ---------------------------------------------------------------- penalties, bias, suppression

inline void ExpectPenaltiesBiasAndSuppressionInOrder(Sampler& sampler) {
  // Greedy over designed logits: each token's value after all steps is known.
  const Logits logits = {4.0f, -1.0f, 3.0f, 2.9f, 3.5f};
  const SampleRow row{
      .temperature = 0.0f, .repetition_penalty = 2.0f, .presence_penalty = 0.25f, .frequency_penalty = 0.5f};
  // 0: 4 / 2 - 0.25 - 2 * 0.5 = 0.75; 1: -1 * 2 (prompt only) = -2; 4 is suppressed, whatever its bias.
  const auto chosen = [&](std::vector<LogitBias> bias) {
    bias.push_back({4, 50.0f});
    return sampler.SampleOne(logits, row, {.counts = {{0, 2}, {1, 0}}, .bias = std::move(bias), .suppressed = {4}}).id;
  };
  EXPECT_EQ(chosen({{2, -0.2f}}), 3);              // 2: 3 - 0.2 = 2.8
  EXPECT_EQ(chosen({{2, -0.2f}, {1, 4.95f}}), 1);  // just beats 2.9: the penalty multiplied the negative logit
  EXPECT_EQ(chosen({{2, -0.2f}, {1, 4.85f}}), 3);
  EXPECT_EQ(chosen({{0, 2.2f}}), 2);                          // 0: 2.95, between 2.9 and 3
  EXPECT_EQ(chosen({{0, 2.3f}}), 0);                          // 0: 3.05
  EXPECT_EQ(chosen({{1, 2.5f}, {2, -0.2f}, {1, 2.45f}}), 1);  // an id twice
  EXPECT_FALSE(sampler.SampleOne({1.0f, 2.0f}, row, {.suppressed = {0, 1, 0}}).finite);
  EXPECT_FALSE(sampler.SampleOne({1.0f, 2.0f}, row, {.bias = {{1, kInfinity}}}).finite);
}

inline void ExpectEveryRowToHaveItsOwnLists(Sampler& sampler) {
  const Logits logits = {4.0f, 3.5f, 3.0f, 2.5f};
  const SampleLists lists{.counts = {{0, 1}, {1, 1}}, .bias = {{2, 5.0f}, {3, 5.0f}}, .suppressed = {0, 1}};
  std::vector<SampleRow> rows(9, {.temperature = 0.0f, .presence_penalty = 1.25f});
  rows[1].counts_end = 1;
  rows[2].counts_end = 2;
  rows[3].bias_begin = rows[3].bias_end = 1;
  rows[4].bias_begin = 1;
  rows[4].bias_end = 2;
  rows[5].suppressed_end = 1;
  rows[6].suppressed_end = 2;
  rows[7].counts_begin = 1;  // 1 alone
  rows[7].counts_end = 2;
  rows[8].suppressed_begin = 1;
  rows[8].suppressed_end = 2;
  std::vector<int32_t> ids;
  for (const Sampled& sampled : sampler.Sample(std::vector<Logits>(9, logits), rows, lists)) ids.push_back(sampled.id);
  EXPECT_THAT(ids, testing::ElementsAre(0, 1, 2, 0, 3, 1, 2, 0, 0));
}

// Bias and suppression may name ids that the model does not have.
inline void ExpectIdsThatAreNoneIgnored(Sampler& sampler) {
  const Logits logits = {1.0f, 3.0f, 2.0f};
  const SampleLists lists{.bias = {{3, 9.0f}, {-1, 9.0f}, {2, 0.5f}}, .suppressed = {-1, 3}};
  std::vector<SampleRow> rows(3, {.temperature = 0.0f, .bias_end = 3, .suppressed_end = 2});
  for (const Sampled& sampled : sampler.Sample(std::vector<Logits>(3, logits), rows, lists)) {
    EXPECT_TRUE(sampled.finite);
    EXPECT_EQ(sampled.id, 1);
  }
}

inline void ExpectIdsBeyondTheLimitNeverChosen(Sampler& sampler) {
  Logits logits = RandomLogits(64, 5);
  logits[60] = 50.0f;
  for (const float temperature : {0.0f, 1.0f}) {
    EXPECT_LT(sampler.SampleOne(logits, {.temperature = temperature, .vocab_limit = 60}).id, 60);
    EXPECT_EQ(sampler.SampleOne(logits, {.temperature = temperature, .vocab_limit = 61}).id, 60);
    EXPECT_EQ(sampler.SampleOne(logits, {.temperature = temperature, .vocab_limit = 1000}).id, 60);
  }
}

inline void ExpectARowInWhichNothingMayBeChosenNotFinite(Sampler& sampler) {
  const Logits logits = {1.0f, 2.0f, -kInfinity, 3.0f};
  for (const float temperature : {0.0f, 1.0f}) {
    const SampleRow row{.temperature = temperature, .vocab_limit = 3};
    EXPECT_FALSE(sampler.SampleOne(logits, row, {.suppressed = {0, 1}}).finite);
    const Sampled sampled = sampler.SampleOne(logits, row, {.suppressed = {1}});
    EXPECT_TRUE(sampled.finite);
    EXPECT_EQ(sampled.id, 0);
  }
  EXPECT_FALSE(sampler.Score({Logits(600, -kInfinity)}, {7}, /*num_top=*/0)[0].finite);
}

// ---------------------------------------------------------------- cuts and the draw

// What is drawn is what the reference's distribution has at that row's uniform number, so that a token too many or too
// few in a cut shows in most draws. All rows have these logits and, but for their keys, the same settings.
inline void ExpectInverseTransform(Sampler& sampler, const Logits& logits, const std::vector<SampleRow>& rows,
                                   const SampleLists& lists, const std::string& what) {
  const SampleParams packed{
      .counts = lists.counts.data(), .bias = lists.bias.data(), .suppressed = lists.suppressed.data()};
  const std::vector<double> expected =
      reference::SamplingDistribution(reference::ModifiedLogits(logits, packed, rows[0]), rows[0]);
  std::vector<double> cumulative = {0.0};
  for (const double p : expected) cumulative.push_back(cumulative.back() + p);
  const std::vector<Sampled> results = sampler.Sample(std::vector<Logits>(rows.size(), logits), rows, lists);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double at = UniformAt(rows[i].seed, rows[i].choice, rows[i].position);
    const int32_t id = results[i].id;
    ASSERT_TRUE(results[i].finite) << what;
    ASSERT_GT(expected[id], 0.0) << what;
    ASSERT_GE(at, cumulative[id] - 2e-6) << what;
    ASSERT_LE(at, cumulative[id + 1] + 2e-6) << what;
  }
}

// Random rows of awkward sizes through random settings.
inline void ExpectInverseTransformsOfRandomSettings(Sampler& sampler, const std::vector<size_t>& sizes, int rounds,
                                                    int draws) {
  std::mt19937 random(12);
  const auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  for (int round = 0; round < rounds; ++round) {
    const size_t size = sizes[static_cast<size_t>(round) % sizes.size()];
    Logits logits = RandomLogits(size, random(), uniform(0.3f, 6.0f));
    if (round % 3 == 0) {
      for (float& logit : logits) logit = std::round(logit);  // ties everywhere
    }
    if (round % 4 == 0) {
      for (size_t id = 1; id < size; id += 3) logits[id] = -kInfinity;
    }
    SampleRow how{.temperature = uniform(0.2f, 2.0f), .seed = random()};
    if (random() % 3 == 0) how.top_k = 1 + static_cast<int32_t>(random() % size);
    if (random() % 2 == 0) how.top_p = uniform(0.0f, 1.0f);
    if (random() % 3 == 0) how.min_p = std::pow(10.0f, uniform(-4.0f, 0.0f));
    if (random() % 4 == 0) how.typical_p = uniform(0.05f, 1.0f);
    if (random() % 3 == 0) how.vocab_limit = 1 + static_cast<int32_t>(random() % size);
    SampleLists lists;
    if (random() % 2 == 0) {
      how.repetition_penalty = uniform(0.5f, 2.0f);
      how.presence_penalty = uniform(-2.0f, 2.0f);
      how.frequency_penalty = uniform(-2.0f, 2.0f);
      for (size_t id = 0; id < size; id += 2) lists.counts.push_back({static_cast<int32_t>(id), round % 4});
      lists.bias = {{static_cast<int32_t>(random() % size), uniform(-5.0f, 5.0f)}};
      if (size > 10) lists.suppressed = {static_cast<int32_t>(random() % size)};
      how.counts_end = static_cast<int32_t>(lists.counts.size());
      how.bias_end = 1;
      how.suppressed_end = static_cast<int32_t>(lists.suppressed.size());
    }
    std::vector<SampleRow> rows(static_cast<size_t>(draws), how);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].position = static_cast<uint32_t>(i);
    ExpectInverseTransform(sampler, logits, rows, lists,
                           "round " + std::to_string(round) + ", size " + std::to_string(size));
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Each cut alone, on a row that is as large as a vocabulary, or may be. `limit`: ids below it have a token.
inline void ExpectInverseTransformsOfEveryCut(Sampler& sampler, size_t size, int32_t limit, uint32_t draws) {
  const Logits logits = RandomLogits(size, 13);
  const std::vector<SampleRow> settings = {{.temperature = 1.0f},
                                           {.temperature = 1.0f, .top_k = 50, .top_p = 0.95f},
                                           {.temperature = 1.0f, .top_k = 5, .top_p = 0.95f},
                                           {.temperature = 1.0f, .top_p = 0.9f},
                                           {.temperature = 1.0f, .top_p = 0.0f},
                                           {.temperature = 0.7f, .min_p = 0.05f},
                                           {.temperature = 0.7f, .min_p = 1.0f},
                                           {.temperature = 1.5f, .typical_p = 0.9f},
                                           {.temperature = 1.5f, .top_k = 9, .typical_p = 0.5f},
                                           {.temperature = 1.0f, .vocab_limit = limit}};
  for (size_t i = 0; i < settings.size(); ++i) {
    std::vector<SampleRow> rows(draws, settings[i]);
    for (uint32_t choice = 0; choice < draws; ++choice) rows[choice].choice = choice;
    ExpectInverseTransform(sampler, logits, rows, {}, "setting " + std::to_string(i));
    if (testing::Test::HasFatalFailure()) return;
  }
  // Both cuts go through tokens that are equally likely.
  std::vector<SampleRow> rows(draws, {.temperature = 1.0f, .top_k = 50, .top_p = 0.5f});
  for (uint32_t choice = 0; choice < draws; ++choice) rows[choice].choice = choice;
  ExpectInverseTransform(sampler, Logits(size, 1.0f), rows, {}, "equals");
}

inline void ExpectATinyTemperatureToBeGreedy(Sampler& sampler) {
  const Logits logits = RandomLogits(300, 10);
  const int32_t greedy = sampler.SampleOne(logits, {.temperature = 0.0f}).id;
  for (const float temperature : {1e-5f, 1e-30f, 1e-44f}) {
    EXPECT_EQ(sampler.SampleOne(logits, {.temperature = temperature, .seed = 3}).id, greedy) << temperature;
  }
}

// Token i of n equal ones has the numbers [i / n, (i + 1) / n): its lower bound is its own and not its neighbour's.
// This key was searched for: its number is 21,629 / 65,536 to the last of 53 bits.
inline void ExpectADrawAtABoundToBeTheTokenAboveIt(Sampler& sampler) {
  constexpr uint32_t kTokens = 65536, kToken = 21629;
  const SampleRow row{.seed = 7, .choice = 19, .position = 3264072972};
  ASSERT_EQ(UniformAt(row.seed, row.choice, row.position) * kTokens, kToken);
  EXPECT_EQ(sampler.SampleOne(Logits(kTokens, 0.0f), row).id, kToken);
}

}  // namespace optserve
