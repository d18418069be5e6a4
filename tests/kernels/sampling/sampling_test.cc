#include "kernels/sampling/sampling.h"

#include <gtest/gtest.h>

#include "tests/support/kernel_test.h"
#include "tests/support/sampling_cases.h"

namespace optserve {
namespace {

class SamplingTest : public testing::TestWithParam<CpuIsa>, public Sampler {
 protected:
  // Room for what comes of some rows.
  struct Outputs {
    explicit Outputs(size_t num_rows)
        : ids(num_rows),
          finite(num_rows),
          top_ids(num_rows * kMaxTopLogprobs),
          logprobs(num_rows),
          top_logprobs(num_rows * kMaxTopLogprobs),
          rows(static_cast<int64_t>(num_rows)) {}
    Sampled Row(size_t r, int32_t num_top) const {
      const auto begin = static_cast<int64_t>(r) * kMaxTopLogprobs, end = begin + num_top;
      return {.id = ids[r],
              .logprob = logprobs[r],
              .finite = finite[r] != 0,
              .top_ids = {top_ids.begin() + begin, top_ids.begin() + end},
              .top_logprobs = {top_logprobs.begin() + begin, top_logprobs.begin() + end}};
    }
    TensorView logprobs_view() { return MakeView(logprobs.data(), DType::kF32, rows); }
    TensorView top_ids_view() { return MakeView(top_ids.data(), DType::kI32, rows, kMaxTopLogprobs); }
    TensorView top_logprobs_view() { return MakeView(top_logprobs.data(), DType::kF32, rows, kMaxTopLogprobs); }

    std::vector<int32_t> ids, finite, top_ids;
    std::vector<float> logprobs, top_logprobs;
    int64_t rows;
  };

  static TestTensor Matrix(const std::vector<Logits>& rows) {
    TestTensor matrix(DType::kF32, static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size()));
    for (size_t r = 0; r < rows.size(); ++r) {
      std::copy(rows[r].begin(), rows[r].end(), matrix.view().Rows(static_cast<int64_t>(r), 1).as<float>());
    }
    return matrix;
  }

  std::vector<Sampled> Sample(const std::vector<Logits>& logits, const std::vector<SampleRow>& rows,
                              const SampleLists& lists = {}) override {
    const TestTensor matrix = Matrix(logits);
    Outputs out(logits.size());
    cpu::Sample(*ctx_, {.logits = matrix.view(),
                        .rows = rows.data(),
                        .counts = lists.counts.data(),
                        .bias = lists.bias.data(),
                        .suppressed = lists.suppressed.data(),
                        .ids = ViewOf(out.ids),
                        .logprobs = out.logprobs_view(),
                        .top_ids = out.top_ids_view(),
                        .top_logprobs = out.top_logprobs_view(),
                        .finite = ViewOf(out.finite)});
    std::vector<Sampled> results;
    for (size_t r = 0; r < rows.size(); ++r) results.push_back(out.Row(r, rows[r].num_top));
    return results;
  }

  std::vector<Sampled> Score(const std::vector<Logits>& logits, std::vector<int32_t> targets,
                             int32_t num_top) override {
    const TestTensor matrix = Matrix(logits);
    Outputs out(logits.size());
    cpu::Score(*ctx_, {.logits = matrix.view(),
                       .targets = ViewOf(targets),
                       .num_top = num_top,
                       .logprobs = out.logprobs_view(),
                       .top_ids = out.top_ids_view(),
                       .top_logprobs = out.top_logprobs_view(),
                       .finite = ViewOf(out.finite)});
    std::vector<Sampled> results;
    for (size_t r = 0; r < logits.size(); ++r) results.push_back(out.Row(r, num_top));
    return results;
  }

  CpuContext own_ctx_ = MakeContext(GetParam());
  const CpuContext* ctx_ = &own_ctx_;
};

TEST_P(SamplingTest, LogprobsAreOfTheUnmodifiedDistribution) {
  ExpectLogprobsOfTheUnmodifiedDistribution(*this, {1, 15, 16, 33, 1000, 50272});
}
TEST_P(SamplingTest, TiesGoToTheLowestId) { ExpectTiesToTheLowestId(*this); }
TEST_P(SamplingTest, ScoreGivesTheSameBitsAsSample) { ExpectScoresWithTheBitsOfSample(*this); }
TEST_P(SamplingTest, RowsThatAreNotFiniteAreFlaggedAndDisturbNoOther) { ExpectRowsThatAreNotFiniteFlaggedAlone(*this); }

TEST_P(SamplingTest, OneNumberThatIsNotFiniteIsSeenWhereverItStands) {
  for (const size_t size : {1, 17, 64, 130}) {
    for (size_t at = 0; at < size; ++at) {
      for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity}) {
        Logits logits = RandomLogits(size, 4);
        logits[at] = bad;
        ASSERT_FALSE(SampleOne(logits, {.temperature = 1.0f, .num_top = 1}).finite) << bad << " at " << at;
      }
    }
  }
}

TEST_P(SamplingTest, PenaltiesBiasAndSuppressionComeInOrder) { ExpectPenaltiesBiasAndSuppressionInOrder(*this); }
TEST_P(SamplingTest, EveryRowHasItsOwnLists) { ExpectEveryRowToHaveItsOwnLists(*this); }
TEST_P(SamplingTest, IdsThatAreNoneAreIgnored) { ExpectIdsThatAreNoneIgnored(*this); }
TEST_P(SamplingTest, IdsBeyondTheVocabularyAreNeverChosen) { ExpectIdsBeyondTheLimitNeverChosen(*this); }
TEST_P(SamplingTest, ARowInWhichNothingMayBeChosenIsNotFinite) { ExpectARowInWhichNothingMayBeChosenNotFinite(*this); }

TEST_P(SamplingTest, DrawsAreTheInverseTransformOfTheReferencesDistribution) {
  ExpectInverseTransformsOfRandomSettings(*this, {1, 5, 63, 64, 65, 700, 3000, 4097}, /*rounds=*/60, /*draws=*/40);
}
// At the size of OPT's vocabulary, which an odd number of tokens and a flat distribution make slowest.
TEST_P(SamplingTest, DrawsFromAWholeVocabulary) {
  ExpectInverseTransformsOfEveryCut(*this, 50272, 50265, /*draws=*/12);
}

// Draws from one row at many positions and compares frequencies with the exact distribution by chi-square.
TEST_P(SamplingTest, DrawsFollowTheDistribution) {
  const Logits logits = RandomLogits(50, 6);
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
    for (const Sampled& sampled : Sample(std::vector<Logits>(kDraws, logits), rows)) ++seen[sampled.id];
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
  const Logits logits = RandomLogits(2000, 8, 0.5f);
  const SampleRow row{.temperature = 1.0f, .top_p = 0.95f, .seed = 77, .choice = 3, .position = 12};
  const int32_t id = SampleOne(logits, row).id;
  std::vector<Logits> crowd(9, RandomLogits(2000, 9));
  crowd[7] = logits;
  std::vector<SampleRow> rows(9, {.temperature = 1.5f, .seed = 1});
  rows[7] = row;
  for (const int threads : {1, 2, 3}) {
    const CpuContext other = MakeContext(GetParam(), threads);
    ctx_ = &other;
    EXPECT_EQ(Sample(crowd, rows)[7].id, id);
    ctx_ = &own_ctx_;
  }
  int same = 0;
  for (uint32_t i = 1; i <= 20; ++i) {
    SampleRow other = row;
    (i % 3 == 0 ? other.choice : other.position) += i;
    if (i % 3 == 1) other.seed += uint64_t{i} << 32;
    same += SampleOne(logits, other).id == id ? 1 : 0;
  }
  EXPECT_LT(same, 5);
}

TEST_P(SamplingTest, ATinyTemperatureIsGreedy) { ExpectATinyTemperatureToBeGreedy(*this); }
TEST_P(SamplingTest, ADrawAtABoundIsTheTokenAboveIt) { ExpectADrawAtABoundToBeTheTokenAboveIt(*this); }

INSTANTIATE_TEST_SUITE_P(Isas, SamplingTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return IsaName(info.param); });

}  // namespace
}  // namespace optserve
