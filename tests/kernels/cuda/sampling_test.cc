#include "kernels/sampling/sampling.h"

#include <cstring>

#include "tests/kernels/cuda/cuda_test.h"
#include "tests/support/sampling_cases.h"

namespace optserve {
namespace {

class CudaSamplingTest : public CudaTest, public Sampler {
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

  Mirror Matrix(const std::vector<Logits>& rows) {
    Mirror matrix = Make(DType::kF32, static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size()), 3);
    for (size_t r = 0; r < rows.size(); ++r) {
      std::copy(rows[r].begin(), rows[r].end(), matrix.host().Rows(static_cast<int64_t>(r), 1).as<float>());
    }
    matrix.Upload();
    return matrix;
  }

  std::vector<Sampled> Results(Outputs& out, const std::vector<int32_t>& num_top) {
    for (Mirror* m : {&out.ids, &out.logprobs, &out.top_ids, &out.top_logprobs, &out.finite}) m->Download();
    std::vector<Sampled> results;
    for (size_t r = 0; r < num_top.size(); ++r) {
      const auto row = static_cast<int64_t>(r);
      const auto* ids = out.top_ids.host().Rows(row, 1).as<int32_t>();
      const auto* logprobs = out.top_logprobs.host().Rows(row, 1).as<float>();
      results.push_back({.id = out.ids.host().as<int32_t>()[r],
                         .logprob = out.logprobs.host().as<float>()[r],
                         .finite = out.finite.host().as<int32_t>()[r] != 0,
                         .top_ids = {ids, ids + num_top[r]},
                         .top_logprobs = {logprobs, logprobs + num_top[r]}});
    }
    return results;
  }

  std::vector<Sampled> Sample(const std::vector<Logits>& logits, const std::vector<SampleRow>& rows,
                              const SampleLists& lists = {}) override {
    Mirror matrix = Matrix(logits), row_words = Words(rows), counts = Words(lists.counts), bias = Words(lists.bias);
    Mirror suppressed = Words(lists.suppressed);
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
    std::vector<Sampled> results = Results(out, num_top);
    matrix.Download();  // logits are not changed
    for (size_t r = 0; r < logits.size(); ++r) {
      EXPECT_EQ(
          std::memcmp(matrix.host().Rows(static_cast<int64_t>(r), 1).data, logits[r].data(), logits[r].size() * 4), 0);
    }
    return results;
  }

  std::vector<Sampled> Score(const std::vector<Logits>& logits, std::vector<int32_t> targets,
                             int32_t num_top) override {
    Mirror matrix = Matrix(logits), target_ids = Ids(targets);
    Outputs out = MakeOutputs(static_cast<int64_t>(logits.size()));
    cuda::Score(ctx_, {.logits = matrix.device(),
                       .targets = target_ids.device_vector(),
                       .num_top = num_top,
                       .logprobs = out.logprobs.device_vector(),
                       .top_ids = out.top_ids.device(),
                       .top_logprobs = out.top_logprobs.device(),
                       .finite = out.finite.device_vector()});
    return Results(out, std::vector<int32_t>(logits.size(), num_top));
  }
};

TEST_F(CudaSamplingTest, LogprobsAreOfTheUnmodifiedDistribution) {
  ExpectLogprobsOfTheUnmodifiedDistribution(*this, {1, 15, 512, 513, 1537});
}
TEST_F(CudaSamplingTest, TiesGoToTheLowestId) { ExpectTiesToTheLowestId(*this); }
TEST_F(CudaSamplingTest, ScoreGivesTheSameBitsAsSample) { ExpectScoresWithTheBitsOfSample(*this); }
TEST_F(CudaSamplingTest, RowsThatAreNotFiniteAreFlaggedAndDisturbNoOther) {
  ExpectRowsThatAreNotFiniteFlaggedAlone(*this);
}
TEST_F(CudaSamplingTest, PenaltiesBiasAndSuppressionComeInOrder) { ExpectPenaltiesBiasAndSuppressionInOrder(*this); }
TEST_F(CudaSamplingTest, EveryRowHasItsOwnLists) { ExpectEveryRowToHaveItsOwnLists(*this); }
TEST_F(CudaSamplingTest, IdsThatAreNoneAreIgnored) { ExpectIdsThatAreNoneIgnored(*this); }
TEST_F(CudaSamplingTest, IdsBeyondTheVocabularyAreNeverChosen) { ExpectIdsBeyondTheLimitNeverChosen(*this); }
TEST_F(CudaSamplingTest, ARowInWhichNothingMayBeChosenIsNotFinite) {
  ExpectARowInWhichNothingMayBeChosenNotFinite(*this);
}
TEST_F(CudaSamplingTest, DrawsAreTheInverseTransformOfTheReferencesDistribution) {
  ExpectInverseTransformsOfRandomSettings(*this, {1, 5, 63, 300, 700, 1100}, /*rounds=*/32, /*draws=*/6);
}
TEST_F(CudaSamplingTest, EveryCutAlone) { ExpectInverseTransformsOfEveryCut(*this, 2000, 1985, /*draws=*/6); }
TEST_F(CudaSamplingTest, ATinyTemperatureIsGreedy) { ExpectATinyTemperatureToBeGreedy(*this); }
TEST_F(CudaSamplingTest, ADrawAtABoundIsTheTokenAboveIt) { ExpectADrawAtABoundToBeTheTokenAboveIt(*this); }

// The host checks ids before it sends them to a GPU; what is wrong all the same changes no other row.
TEST_F(CudaSamplingTest, CountsAndTargetsThatAreNoIdsTouchNothing) {
  const Logits logits = {1.0f, 3.0f, 2.0f};
  const std::vector<SampleRow> rows(3, {.temperature = 0.0f, .repetition_penalty = 4.0f, .counts_end = 3});
  for (const Sampled& sampled : Sample(std::vector<Logits>(3, logits), rows, {.counts = {{-1, 1}, {3, 1}, {1, 1}}})) {
    EXPECT_EQ(sampled.id, 2);
  }
  const std::vector<Sampled> scored = Score(std::vector<Logits>(3, logits), {-1, 1, 3}, 9);
  EXPECT_FALSE(scored[0].finite || scored[2].finite);
  EXPECT_TRUE(scored[1].finite);
}

TEST_F(CudaSamplingTest, MoreRowsThanTheWorkspaceHolds) {
  ctx_.workspace_bytes = 2 * 100 * sizeof(float);
  std::vector<Logits> logits;
  for (uint32_t r = 0; r < 5; ++r) logits.push_back(RandomLogits(100, r));
  const std::vector<SampleRow> rows(5, {.temperature = 0.0f, .bias_end = 1});
  for (const Sampled& sampled : Sample(logits, rows, {.bias = {{42, 100.0f}}})) EXPECT_EQ(sampled.id, 42);
}

}  // namespace
}  // namespace optserve
