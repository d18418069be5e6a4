#include "kernels/sampling/sampling.h"

#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/sampling/philox.h"
#include "tests/kernels/cuda/cuda_test.h"
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

struct Result {
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

class CudaSamplingTest : public CudaTest {
 protected:
  // Any array on the device, as words.
  template <typename T>
  Mirror Words(const std::vector<T>& values) {
    std::vector<int32_t> words(std::max<size_t>(1, values.size() * sizeof(T) / 4));
    if (!values.empty()) std::memcpy(words.data(), values.data(), values.size() * sizeof(T));
    return Ids(words);
  }

  struct Outputs {
    Mirror ids, logprobs, top_ids, top_logprobs, finite;
  };
  Outputs MakeOutputs(int64_t rows) {
    return {Make(DType::kI32, 1, rows), Make(DType::kF32, 1, rows), Make(DType::kI32, rows, kMaxTopLogprobs),
            Make(DType::kF32, rows, kMaxTopLogprobs), Make(DType::kI32, 1, rows)};
  }

  Mirror Matrix(const std::vector<std::vector<float>>& rows) {
    Mirror matrix = Make(DType::kF32, static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size()), 3);
    for (size_t r = 0; r < rows.size(); ++r) {
      std::copy(rows[r].begin(), rows[r].end(), matrix.host().Rows(static_cast<int64_t>(r), 1).as<float>());
    }
    matrix.Upload();
    return matrix;
  }

  std::vector<Result> Results(Outputs& out, const std::vector<int32_t>& num_top) {
    for (Mirror* m : {&out.ids, &out.logprobs, &out.top_ids, &out.top_logprobs, &out.finite}) m->Download();
    std::vector<Result> results;
    for (size_t r = 0; r < num_top.size(); ++r) {
      const auto row = static_cast<int64_t>(r);
      Result& result = results.emplace_back();
      result.id = out.ids.host().as<int32_t>()[r];
      result.logprob = out.logprobs.host().as<float>()[r];
      result.finite = out.finite.host().as<int32_t>()[r] != 0;
      const auto* ids = out.top_ids.host().Rows(row, 1).as<int32_t>();
      const auto* logprobs = out.top_logprobs.host().Rows(row, 1).as<float>();
      result.top_ids.assign(ids, ids + num_top[r]);
      result.top_logprobs.assign(logprobs, logprobs + num_top[r]);
    }
    return results;
  }

  std::vector<Result> RunRows(const std::vector<std::vector<float>>& logits, const std::vector<SampleRow>& rows,
                              const Extras& extras = {}) {
    Mirror matrix = Matrix(logits), row_words = Words(rows), counts = Words(extras.counts), bias = Words(extras.bias);
    Mirror suppressed = Words(extras.suppressed);
    Outputs out = MakeOutputs(static_cast<int64_t>(rows.size()));
    cuda::Sample(ctx_, {.logits = matrix.device(),
                        .rows = row_words.device().as<const SampleRow>(),
                        .counts = counts.device().as<const TokenCount>(),
                        .bias = bias.device().as<const LogitBias>(),
                        .suppressed = suppressed.device().as<const int32_t>(),
                        .ids = out.ids.device_vector(),
                        .logprobs = out.logprobs.device_vector(),
                        .top_ids = out.top_ids.device(),
                        .top_logprobs = out.top_logprobs.device(),
                        .finite = out.finite.device_vector()});
    std::vector<int32_t> num_top;
    for (const SampleRow& row : rows) num_top.push_back(row.num_top);
    std::vector<Result> results = Results(out, num_top);
    matrix.Download();  // logits are not changed
    for (size_t r = 0; r < logits.size(); ++r) {
      EXPECT_EQ(
          std::memcmp(matrix.host().Rows(static_cast<int64_t>(r), 1).data, logits[r].data(), logits[r].size() * 4), 0);
    }
    return results;
  }

  Result RunOne(const std::vector<float>& logits, SampleRow row, const Extras& extras = {}) {
    row.counts_end = static_cast<int32_t>(extras.counts.size());
    row.bias_end = static_cast<int32_t>(extras.bias.size());
    row.suppressed_end = static_cast<int32_t>(extras.suppressed.size());
    return RunRows({logits}, {row}, extras)[0];
  }

  // What is drawn is what the reference's distribution has at that uniform number.
  void ExpectInverseTransform(const std::vector<float>& logits, const SampleRow& how, const Extras& extras, int draws,
                              const std::string& what) {
    const SampleParams lists{
        .counts = extras.counts.data(), .bias = extras.bias.data(), .suppressed = extras.suppressed.data()};
    const std::vector<double> expected =
        reference::SamplingDistribution(reference::ModifiedLogits(logits, lists, how), how);
    std::vector<double> cumulative = {0.0};
    for (const double p : expected) cumulative.push_back(cumulative.back() + p);
    std::vector<SampleRow> rows(draws, how);
    for (int i = 0; i < draws; ++i) rows[i].position = static_cast<uint32_t>(i);
    const std::vector<Result> results = RunRows(std::vector<std::vector<float>>(draws, logits), rows, extras);
    for (int i = 0; i < draws; ++i) {
      const double at = UniformAt(how.seed, how.choice, rows[i].position);
      const int32_t id = results[i].id;
      ASSERT_TRUE(results[i].finite) << what;
      ASSERT_GT(expected[id], 0.0) << what;
      ASSERT_GE(at, cumulative[id] - 2e-6) << what;
      ASSERT_LE(at, cumulative[id + 1] + 2e-6) << what;
    }
  }
};

TEST_F(CudaSamplingTest, LogprobsAreOfTheUnmodifiedDistribution) {
  for (const size_t size : {1, 15, 512, 513, 5000}) {
    const std::vector<float> logits = RandomLogits(size, 1);
    const std::vector<double> expected = reference::LogSoftmax(logits);
    const int32_t num_top = static_cast<int32_t>(std::min<size_t>(size, 20));
    const Result result = RunOne(logits, {.temperature = 0.0f, .num_top = num_top}, {.bias = {{0, 100.0f}}});
    EXPECT_EQ(result.id, 0);
    EXPECT_NEAR(result.logprob, expected[0], 1e-5);
    std::vector<int32_t> order(size);
    for (size_t i = 0; i < size; ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int32_t i = 0; i < num_top; ++i) {
      EXPECT_EQ(result.top_ids[i], order[i]);
      EXPECT_NEAR(result.top_logprobs[i], expected[order[i]], 1e-5);
    }
  }
}

TEST_F(CudaSamplingTest, TiesGoToTheLowestId) {
  std::vector<float> logits(1000);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = static_cast<float>(id % 100);
  const Result result = RunOne(logits, {.temperature = 0.0f, .num_top = 12});
  EXPECT_THAT(result.top_ids, testing::ElementsAre(99, 199, 299, 399, 499, 599, 699, 799, 899, 999, 98, 198));
  EXPECT_EQ(result.id, 99);
  EXPECT_EQ(RunOne(logits, {.temperature = 1.0f, .top_k = 1, .seed = 9}).id, 99);
  std::vector<float> zeros(40, -0.0f);
  zeros[3] = 0.0f;  // equal to the others
  EXPECT_EQ(RunOne(zeros, {.temperature = 0.0f}).id, 0);
}

TEST_F(CudaSamplingTest, ScoreGivesTheSameBitsAsSample) {
  const std::vector<float> logits = RandomLogits(1097, 3);
  const Result sampled = RunOne(logits, {.temperature = 0.0f, .num_top = 5});
  Mirror matrix = Matrix({logits, logits}), targets = Ids({sampled.id, 7});
  Outputs out = MakeOutputs(2);
  cuda::Score(ctx_, {.logits = matrix.device(),
                     .targets = targets.device_vector(),
                     .num_top = 5,
                     .logprobs = out.logprobs.device_vector(),
                     .top_ids = out.top_ids.device(),
                     .top_logprobs = out.top_logprobs.device(),
                     .finite = out.finite.device_vector()});
  const std::vector<Result> results = Results(out, {5, 5});
  EXPECT_TRUE(results[0].finite && results[1].finite);
  EXPECT_EQ(results[0].logprob, sampled.logprob);
  EXPECT_NEAR(results[1].logprob, reference::LogSoftmax(logits)[7], 1e-5);
  EXPECT_EQ(results[0].top_ids, sampled.top_ids);
  EXPECT_EQ(results[1].top_logprobs, sampled.top_logprobs);
}

TEST_F(CudaSamplingTest, RowsThatAreNotFiniteAreFlaggedAndDisturbNoOther) {
  const std::vector<float> good = RandomLogits(600, 4);
  std::vector<std::vector<float>> logits(7, good);
  logits[1][599] = std::nanf("");
  logits[2][0] = kInfinity;
  logits[3].assign(600, -kInfinity);
  logits[4][50] = -kInfinity;  // an ordinary impossible token
  logits[5][13] = -std::nanf("");
  const std::vector<Result> results = RunRows(logits, std::vector<SampleRow>(7, {.seed = 5, .num_top = 2}));
  const std::vector<bool> expected = {true, false, false, false, true, false, true};
  for (size_t r = 0; r < 7; ++r) EXPECT_EQ(results[r].finite, expected[r]) << r;
  EXPECT_EQ(results[6].id, results[0].id);
  EXPECT_EQ(results[6].logprob, results[0].logprob);
}

TEST_F(CudaSamplingTest, PenaltiesBiasAndSuppressionComeInOrder) {
  const std::vector<float> logits = {4.0f, -1.0f, 3.0f, 2.9f, 3.5f};
  const SampleRow row{
      .temperature = 0.0f, .repetition_penalty = 2.0f, .presence_penalty = 0.25f, .frequency_penalty = 0.5f};
  const auto chosen = [&](std::vector<LogitBias> bias) {
    return RunOne(logits, row, {.counts = {{0, 2}, {1, 0}}, .bias = std::move(bias), .suppressed = {4}}).id;
  };
  EXPECT_EQ(chosen({{2, -0.2f}}), 3);
  EXPECT_EQ(chosen({{2, -0.2f}, {1, 4.95f}}), 1);
  EXPECT_EQ(chosen({{2, -0.2f}, {1, 4.85f}}), 3);
  EXPECT_EQ(chosen({{1, 2.5f}, {2, -0.2f}, {1, 2.45f}}), 1);  // an id twice
  EXPECT_FALSE(RunOne({1.0f, 2.0f}, row, {.suppressed = {0, 1, 0}}).finite);
}

TEST_F(CudaSamplingTest, EveryRowHasItsOwnLists) {
  const std::vector<float> logits = {4.0f, 3.5f, 3.0f, 2.5f};
  const Extras extras{.counts = {{0, 1}, {1, 1}}, .bias = {{2, 5.0f}, {3, 5.0f}}, .suppressed = {0, 1}};
  std::vector<SampleRow> rows(7, {.temperature = 0.0f, .presence_penalty = 1.0f});
  rows[1].counts_end = 1;
  rows[2].counts_end = 2;
  rows[3].bias_begin = rows[3].bias_end = 1;
  rows[4].bias_begin = 1;
  rows[4].bias_end = 2;
  rows[5].suppressed_end = 1;
  rows[6].suppressed_end = 2;
  std::vector<int32_t> ids;
  for (const Result& result : RunRows(std::vector<std::vector<float>>(7, logits), rows, extras))
    ids.push_back(result.id);
  EXPECT_THAT(ids, testing::ElementsAre(0, 1, 0, 0, 3, 1, 2));
}

TEST_F(CudaSamplingTest, IdsBeyondTheVocabularyAreNeverChosen) {
  std::vector<float> logits = RandomLogits(64, 5);
  logits[60] = 50.0f;
  for (const float temperature : {0.0f, 1.0f}) {
    EXPECT_LT(RunOne(logits, {.temperature = temperature, .vocab_limit = 60}).id, 60);
    EXPECT_EQ(RunOne(logits, {.temperature = temperature, .vocab_limit = 61}).id, 60);
  }
}

TEST_F(CudaSamplingTest, DrawsAreTheInverseTransformOfTheReferencesDistribution) {
  std::mt19937 random(12);
  const auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  for (int round = 0; round < 32; ++round) {
    const size_t size = std::array{1, 5, 63, 300, 700, 1100}[round % 6];
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
    ExpectInverseTransform(logits, how, extras, 6, "round " + std::to_string(round));
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaSamplingTest, EveryCutAlone) {
  const std::vector<float> logits = RandomLogits(2000, 13);
  const std::vector<SampleRow> settings = {{.temperature = 1.0f},
                                           {.temperature = 1.0f, .top_k = 50, .top_p = 0.95f},
                                           {.temperature = 1.0f, .top_p = 0.9f},
                                           {.temperature = 0.7f, .min_p = 0.05f},
                                           {.temperature = 1.5f, .typical_p = 0.9f},
                                           {.temperature = 1.0f, .vocab_limit = 1985}};
  for (size_t i = 0; i < settings.size(); ++i) {
    ExpectInverseTransform(logits, settings[i], {}, 6, "setting " + std::to_string(i));
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaSamplingTest, ATinyTemperatureIsGreedy) {
  const std::vector<float> logits = RandomLogits(300, 10);
  const int32_t greedy = RunOne(logits, {.temperature = 0.0f}).id;
  for (const float temperature : {1e-5f, 1e-30f, 1e-44f}) {
    EXPECT_EQ(RunOne(logits, {.temperature = temperature, .seed = 3}).id, greedy) << temperature;
  }
}

TEST_F(CudaSamplingTest, MoreRowsThanTheWorkspaceHolds) {
  ctx_.workspace_bytes = 2 * 100 * sizeof(float);
  std::vector<std::vector<float>> logits;
  for (uint32_t r = 0; r < 5; ++r) logits.push_back(RandomLogits(100, r));
  SampleRow row{.temperature = 0.0f, .bias_end = 1};
  const std::vector<Result> results = RunRows(logits, std::vector<SampleRow>(5, row), {.bias = {{42, 100.0f}}});
  for (const Result& result : results) EXPECT_EQ(result.id, 42);
}

}  // namespace
}  // namespace optserve
