#include "kernels/sampling/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "kernels/sampling/philox.h"
#include "tests/support/kernel_test.h"
#include "tests/support/reference.h"

namespace optserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> RandomLogits(size_t size, uint32_t seed, float scale = 2.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// One row through Sample, with room for its results.
struct Sampled {
  int32_t id = -1;
  float logprob = 0.0f;
  bool finite = false;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

struct Extras {
  std::vector<TokenCount> counts;
  std::vector<LogitBias> bias;
  std::vector<int32_t> suppressed;
};

std::vector<Sampled> RunRows(const CpuContext& ctx, const std::vector<std::vector<float>>& logits,
                             const std::vector<SampleRow>& rows, const Extras& extras = {}) {
  const auto num_rows = static_cast<int64_t>(logits.size());
  TestTensor matrix(DType::kF32, num_rows, static_cast<int64_t>(logits[0].size()));
  for (int64_t r = 0; r < num_rows; ++r)
    std::copy(logits[r].begin(), logits[r].end(), matrix.view().Rows(r, 1).as<float>());
  std::vector<int32_t> ids(num_rows), finite(num_rows), top_ids(num_rows * kMaxTopLogprobs);
  std::vector<float> logprobs(num_rows), top_logprobs(num_rows * kMaxTopLogprobs);
  cpu::Sample(ctx, {.logits = matrix.view(),
                    .rows = rows.data(),
                    .counts = extras.counts.data(),
                    .bias = extras.bias.data(),
                    .suppressed = extras.suppressed.data(),
                    .ids = ViewOf(ids),
                    .logprobs = MakeView(logprobs.data(), DType::kF32, num_rows),
                    .top_ids = MakeView(top_ids.data(), DType::kI32, num_rows, kMaxTopLogprobs),
                    .top_logprobs = MakeView(top_logprobs.data(), DType::kF32, num_rows, kMaxTopLogprobs),
                    .finite = ViewOf(finite)});
  std::vector<Sampled> results;
  for (int64_t r = 0; r < num_rows; ++r) {
    Sampled& sampled = results.emplace_back();
    sampled.id = ids[r];
    sampled.logprob = logprobs[r];
    sampled.finite = finite[r] != 0;
    const auto begin = r * kMaxTopLogprobs, end = begin + rows[r].num_top;
    sampled.top_ids.assign(top_ids.begin() + begin, top_ids.begin() + end);
    sampled.top_logprobs.assign(top_logprobs.begin() + begin, top_logprobs.begin() + end);
  }
  return results;
}

Sampled RunOne(const CpuContext& ctx, const std::vector<float>& logits, SampleRow row, const Extras& extras = {}) {
  row.counts_end = static_cast<int32_t>(extras.counts.size());
  row.bias_end = static_cast<int32_t>(extras.bias.size());
  row.suppressed_end = static_cast<int32_t>(extras.suppressed.size());
  return RunRows(ctx, {logits}, {row}, extras)[0];
}

class SamplingTest : public testing::TestWithParam<CpuIsa> {
 protected:
  CpuContext ctx_ = MakeContext(GetParam());
};

TEST_P(SamplingTest, LogprobsAreOfTheUnmodifiedDistribution) {
  for (const size_t size : {1, 15, 16, 33, 1000, 50272}) {
    const std::vector<float> logits = RandomLogits(size, 1);
    const std::vector<double> expected = reference::LogSoftmax(logits);
    const int32_t num_top = static_cast<int32_t>(std::min<size_t>(size, 20));
    // The bias decides which token is chosen and must not show in what is reported.
    const Sampled sampled = RunOne(ctx_, logits, {.temperature = 0.0f, .num_top = num_top}, {.bias = {{0, 100.0f}}});
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

TEST_P(SamplingTest, TheChosenTokensValueIsTheOneInTheTopList) {
  const std::vector<float> logits = RandomLogits(5000, 2);
  const Sampled sampled = RunOne(ctx_, logits, {.temperature = 0.0f, .num_top = 3});
  EXPECT_EQ(sampled.id, sampled.top_ids[0]);
  EXPECT_EQ(sampled.logprob, sampled.top_logprobs[0]);
}

TEST_P(SamplingTest, TiesGoToTheLowestId) {
  std::vector<float> logits(100, 1.0f);
  logits[40] = logits[70] = 2.0f;
  EXPECT_EQ(RunOne(ctx_, logits, {.temperature = 0.0f}).id, 40);
  EXPECT_THAT(RunOne(ctx_, logits, {.temperature = 0.0f, .num_top = 4}).top_ids, testing::ElementsAre(40, 70, 0, 1));
  // top_k = 1 leaves the lower of the two, whatever the draw.
  EXPECT_EQ(RunOne(ctx_, logits, {.temperature = 1.0f, .top_k = 1, .seed = 9}).id, 40);
}

TEST_P(SamplingTest, ScoreGivesTheSameBitsAsSample) {
  const std::vector<float> logits = RandomLogits(4097, 3);
  const Sampled sampled = RunOne(ctx_, logits, {.temperature = 0.0f, .num_top = 5});
  TestTensor matrix(DType::kF32, 3, 4097);
  for (int r = 0; r < 3; ++r) std::copy(logits.begin(), logits.end(), matrix.view().Rows(r, 1).as<float>());
  std::vector<int32_t> targets(3, sampled.id), finite(3), top_ids(3 * kMaxTopLogprobs);
  std::vector<float> logprobs(3), top_logprobs(3 * kMaxTopLogprobs);
  cpu::Score(ctx_, {.logits = matrix.view(),
                    .targets = ViewOf(targets),
                    .num_top = 5,
                    .logprobs = MakeView(logprobs.data(), DType::kF32, 3),
                    .top_ids = MakeView(top_ids.data(), DType::kI32, 3, kMaxTopLogprobs),
                    .top_logprobs = MakeView(top_logprobs.data(), DType::kF32, 3, kMaxTopLogprobs),
                    .finite = ViewOf(finite)});
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(finite[r], 1);
    EXPECT_EQ(logprobs[r], sampled.logprob);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(top_ids[r * kMaxTopLogprobs + i], sampled.top_ids[i]);
      EXPECT_EQ(top_logprobs[r * kMaxTopLogprobs + i], sampled.top_logprobs[i]);
    }
  }
}

TEST_P(SamplingTest, RowsThatAreNotFiniteAreFlaggedAndDisturbNoOther) {
  const std::vector<float> good = RandomLogits(100, 4);
  std::vector<std::vector<float>> logits(6, good);
  logits[1][99] = std::nanf("");
  logits[2][0] = kInfinity;
  logits[3].assign(100, -kInfinity);
  logits[4][50] = -kInfinity;  // an ordinary impossible token
  std::vector<SampleRow> rows(6, {.temperature = 1.0f, .seed = 5, .num_top = 2});
  const std::vector<Sampled> results = RunRows(ctx_, logits, rows);
  const std::vector<bool> expected = {true, false, false, false, true, true};
  for (size_t r = 0; r < 6; ++r) EXPECT_EQ(results[r].finite, expected[r]) << r;
  EXPECT_EQ(results[5].id, results[0].id);
  EXPECT_EQ(results[5].logprob, results[0].logprob);
}

TEST_P(SamplingTest, OneNumberThatIsNotFiniteIsSeenWhereverItStands) {
  for (const size_t size : {1, 17, 64, 130}) {
    for (size_t at = 0; at < size; ++at) {
      for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity}) {
        std::vector<float> logits = RandomLogits(size, 4);
        logits[at] = bad;
        ASSERT_FALSE(RunOne(ctx_, logits, {.temperature = 1.0f, .num_top = 1}).finite) << bad << " at " << at;
      }
    }
  }
}

TEST_P(SamplingTest, TopListsHandTiesAcrossBlocksToTheLowestIds) {
  std::vector<float> logits(1000);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = static_cast<float>(id % 100);
  const Sampled sampled = RunOne(ctx_, logits, {.temperature = 0.0f, .num_top = 12});
  EXPECT_THAT(sampled.top_ids, testing::ElementsAre(99, 199, 299, 399, 499, 599, 699, 799, 899, 999, 98, 198));
  EXPECT_EQ(sampled.id, 99);
}

TEST_P(SamplingTest, PenaltiesBiasAndSuppressionComeInOrder) {
  // Greedy over designed logits: each token's value after all steps is known.
  const std::vector<float> logits = {4.0f, -1.0f, 3.0f, 2.9f, 3.5f};
  const SampleRow row{
      .temperature = 0.0f, .repetition_penalty = 2.0f, .presence_penalty = 0.25f, .frequency_penalty = 0.5f};
  // 0: 4 / 2 - 0.25 - 2 * 0.5 = 0.75; 1: -1 * 2 (prompt only) = -2; 4 is suppressed; 2: 3 - 0.2 = 2.8; so 3 wins.
  EXPECT_EQ(RunOne(ctx_, logits, row, {.counts = {{0, 2}, {1, 0}}, .bias = {{2, -0.2f}}, .suppressed = {4}}).id, 3);
  // A bias on 1 that just beats 2.9 shows that the penalty multiplied the negative logit.
  EXPECT_EQ(
      RunOne(ctx_, logits, row, {.counts = {{0, 2}, {1, 0}}, .bias = {{2, -0.2f}, {1, 4.95f}}, .suppressed = {4}}).id,
      1);
  EXPECT_EQ(
      RunOne(ctx_, logits, row, {.counts = {{0, 2}, {1, 0}}, .bias = {{2, -0.2f}, {1, 4.85f}}, .suppressed = {4}}).id,
      3);
}

TEST_P(SamplingTest, IdsBeyondTheVocabularyAreNeverChosen) {
  std::vector<float> logits = RandomLogits(64, 5);
  logits[60] = 50.0f;
  for (const float temperature : {0.0f, 1.0f}) {
    EXPECT_LT(RunOne(ctx_, logits, {.temperature = temperature, .vocab_limit = 60}).id, 60);
    EXPECT_EQ(RunOne(ctx_, logits, {.temperature = temperature, .vocab_limit = 61}).id, 60);
  }
}

TEST_P(SamplingTest, EveryRowHasItsOwnPenaltiesBiasAndSuppression) {
  const std::vector<float> logits = {4.0f, 3.5f, 3.0f, 2.5f};
  const Extras extras{.counts = {{0, 1}, {1, 1}}, .bias = {{2, 5.0f}, {3, 5.0f}}, .suppressed = {0, 1}};
  const SampleRow greedy{.temperature = 0.0f, .presence_penalty = 1.0f};
  std::vector<SampleRow> rows(7, greedy);
  rows[1].counts_end = 1;
  rows[2].counts_end = 2;
  rows[3].bias_begin = rows[3].bias_end = 1;
  rows[4].bias_begin = 1;
  rows[4].bias_end = 2;
  rows[5].suppressed_end = 1;
  rows[6].suppressed_end = 2;
  const std::vector<Sampled> results = RunRows(ctx_, std::vector<std::vector<float>>(7, logits), rows, extras);
  std::vector<int32_t> ids;
  for (const Sampled& sampled : results) ids.push_back(sampled.id);
  EXPECT_THAT(ids, testing::ElementsAre(0, 1, 0, 0, 3, 1, 2));
}

TEST_P(SamplingTest, ARowInWhichNothingMayBeChosenIsNotFinite) {
  const std::vector<float> logits = {1.0f, 2.0f, -kInfinity, 3.0f};
  for (const float temperature : {0.0f, 1.0f}) {
    const SampleRow row{.temperature = temperature, .vocab_limit = 3};
    EXPECT_FALSE(RunOne(ctx_, logits, row, {.suppressed = {0, 1}}).finite);
    const Sampled sampled = RunOne(ctx_, logits, row, {.suppressed = {1}});
    EXPECT_TRUE(sampled.finite);
    EXPECT_EQ(sampled.id, 0);
  }
}

// Random rows of awkward sizes through random settings. What is drawn is exactly what the reference's distribution has
// at that uniform number, so that a token too many or too few in a cut shows in most draws.
TEST_P(SamplingTest, DrawsAreTheInverseTransformOfTheReferencesDistribution) {
  std::mt19937 random(12);
  const auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  for (int round = 0; round < 60; ++round) {
    const size_t size = std::array{1, 5, 63, 64, 65, 700, 3000, 4097}[round % 8];
    std::vector<float> logits = RandomLogits(size, random(), uniform(0.3f, 6.0f));
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
    Extras extras;
    if (random() % 2 == 0) {
      how.repetition_penalty = uniform(0.5f, 2.0f);
      how.presence_penalty = uniform(-2.0f, 2.0f);
      how.frequency_penalty = uniform(-2.0f, 2.0f);
      for (size_t id = 0; id < size; id += 2) extras.counts.push_back({static_cast<int32_t>(id), round % 4});
      extras.bias = {{static_cast<int32_t>(random() % size), uniform(-5.0f, 5.0f)}};
      if (size > 10) extras.suppressed = {static_cast<int32_t>(random() % size)};
      how.counts_end = static_cast<int32_t>(extras.counts.size());
      how.bias_end = 1;
      how.suppressed_end = static_cast<int32_t>(extras.suppressed.size());
    }
    const SampleParams lists{
        .counts = extras.counts.data(), .bias = extras.bias.data(), .suppressed = extras.suppressed.data()};
    const std::vector<float> modified = reference::ModifiedLogits(logits, lists, how);
    const std::vector<double> expected = reference::SamplingDistribution(modified, how);
    std::vector<double> cumulative = {0.0};
    for (const double p : expected) cumulative.push_back(cumulative.back() + p);

    std::vector<SampleRow> rows(40, how);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].position = static_cast<uint32_t>(i);
    const std::vector<Sampled> results =
        RunRows(ctx_, std::vector<std::vector<float>>(rows.size(), logits), rows, extras);
    for (size_t i = 0; i < rows.size(); ++i) {
      const double at = UniformAt(how.seed, 0, rows[i].position);
      const int32_t id = results[i].id;
      ASSERT_TRUE(results[i].finite);
      ASSERT_GT(expected[id], 0.0) << "round " << round << ", size " << size;
      ASSERT_GE(at, cumulative[id] - 2e-6) << "round " << round << ", size " << size;
      ASSERT_LE(at, cumulative[id + 1] + 2e-6) << "round " << round << ", size " << size;
    }
  }
}

// The same at the size of OPT's vocabulary, which an odd number of tokens and a flat distribution make slowest.
TEST_P(SamplingTest, DrawsFromAWholeVocabulary) {
  for (const SampleRow& how :
       {SampleRow{.temperature = 1.0f}, SampleRow{.temperature = 1.0f, .top_k = 50, .top_p = 0.95f},
        SampleRow{.temperature = 1.0f, .top_p = 0.9f}, SampleRow{.temperature = 0.7f, .min_p = 0.05f},
        SampleRow{.temperature = 1.5f, .typical_p = 0.9f}, SampleRow{.temperature = 1.0f, .vocab_limit = 50265}}) {
    const std::vector<float> logits = RandomLogits(50272, 13);
    const std::vector<double> expected = reference::SamplingDistribution(logits, how);
    std::vector<double> cumulative = {0.0};
    for (const double p : expected) cumulative.push_back(cumulative.back() + p);
    std::vector<SampleRow> rows(12, how);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].choice = static_cast<uint32_t>(i);
    const std::vector<Sampled> results = RunRows(ctx_, std::vector<std::vector<float>>(rows.size(), logits), rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      const double at = UniformAt(0, rows[i].choice, 0);
      ASSERT_GT(expected[results[i].id], 0.0);
      ASSERT_GE(at, cumulative[results[i].id] - 2e-6);
      ASSERT_LE(at, cumulative[results[i].id + 1] + 2e-6);
    }
  }
}

// Draws from one row at many positions and compares frequencies with the exact distribution by chi-square.
TEST_P(SamplingTest, DrawsFollowTheDistribution) {
  const std::vector<float> logits = RandomLogits(50, 6);
  const std::vector<SampleRow> settings = {
      {.temperature = 1.0f},
      {.temperature = 0.7f, .top_k = 7},
      {.temperature = 1.3f, .top_p = 0.8f},
      {.temperature = 1.0f, .min_p = 0.1f},
      {.temperature = 1.0f, .typical_p = 0.6f},
      {.temperature = 1.5f, .top_k = 30, .top_p = 0.9f, .min_p = 0.02f, .typical_p = 0.95f, .vocab_limit = 45},
  };
  constexpr int kDraws = 2000;
  for (size_t s = 0; s < settings.size(); ++s) {
    const std::vector<double> expected = reference::SamplingDistribution(logits, settings[s]);
    std::vector<SampleRow> rows(kDraws, settings[s]);
    for (int i = 0; i < kDraws; ++i) {
      rows[i].seed = 11;
      rows[i].position = static_cast<uint32_t>(i);
    }
    std::vector<int> seen(50, 0);
    for (const Sampled& sampled : RunRows(ctx_, std::vector<std::vector<float>>(kDraws, logits), rows))
      ++seen[sampled.id];
    double chi_square = 0.0;
    int degrees = -1;
    for (size_t id = 0; id < 50; ++id) {
      if (expected[id] == 0.0) {
        EXPECT_EQ(seen[id], 0) << "setting " << s << " drew " << id << ", which it may not";
        continue;
      }
      chi_square += std::pow(seen[id] - kDraws * expected[id], 2) / (kDraws * expected[id]);
      ++degrees;
    }
    // Five standard deviations of a chi-square of so many degrees of freedom.
    EXPECT_LT(chi_square, degrees + 5 * std::sqrt(2.0 * degrees)) << "setting " << s;
  }
}

TEST_P(SamplingTest, SeedChoiceAndPositionAreTheWholeKey) {
  const std::vector<float> logits = RandomLogits(2000, 8, 0.5f);
  const SampleRow row{.temperature = 1.0f, .top_p = 0.95f, .seed = 77, .choice = 3, .position = 12};
  const int32_t id = RunOne(ctx_, logits, row).id;
  std::vector<std::vector<float>> crowd(9, RandomLogits(2000, 9));
  crowd[7] = logits;
  std::vector<SampleRow> rows(9, {.temperature = 1.5f, .seed = 1});
  rows[7] = row;
  for (const int threads : {1, 2, 3}) {
    EXPECT_EQ(RunRows(MakeContext(GetParam(), threads), crowd, rows)[7].id, id);
  }
  int same = 0;
  for (uint32_t i = 1; i <= 20; ++i) {
    SampleRow other = row;
    (i % 3 == 0 ? other.choice : other.position) += i;
    if (i % 3 == 1) other.seed += uint64_t{i} << 32;
    same += RunOne(ctx_, logits, other).id == id ? 1 : 0;
  }
  EXPECT_LT(same, 5);
}

TEST_P(SamplingTest, ATinyTemperatureIsGreedy) {
  const std::vector<float> logits = RandomLogits(300, 10);
  const int32_t greedy = RunOne(ctx_, logits, {.temperature = 0.0f}).id;
  for (const float temperature : {1e-5f, 1e-30f, 1e-44f}) {
    EXPECT_EQ(RunOne(ctx_, logits, {.temperature = temperature, .seed = 3}).id, greedy) << temperature;
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, SamplingTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return IsaName(info.param); });

}  // namespace
}  // namespace optserve
