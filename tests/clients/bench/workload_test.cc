#include "clients/bench/workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace optserve::bench {
namespace {

std::vector<LoadRequest> Make(const WorkloadOptions& options, int64_t count) {
  const auto requests = MakeWorkload(options, count);
  EXPECT_TRUE(requests.ok()) << requests.status();
  return requests.value_or(std::vector<LoadRequest>());
}

TEST(WorkloadTest, FixedLengthsAreExactAndIdsAreOfTheVocabulary) {
  for (const LoadRequest& request : Make({.prompt_tokens = 17, .output_tokens = 5, .vocab_size = 50}, 200)) {
    EXPECT_EQ(request.prompt.size(), 17u);
    EXPECT_EQ(request.output_tokens, 5);
    EXPECT_GE(*std::ranges::min_element(request.prompt), 4);
    EXPECT_LT(*std::ranges::max_element(request.prompt), 50);
  }
}

TEST(WorkloadTest, ASeedIsAWorkload) {
  const auto a = Make({.seed = 3}, 5), b = Make({.seed = 3}, 5), other = Make({.seed = 4}, 5);
  EXPECT_EQ(a[4].prompt, b[4].prompt);
  EXPECT_NE(a[4].prompt, other[4].prompt);
}

// 161 tokens in and 338 out on average; with 20,000 requests the mean of the longer tail is within 4 %.
TEST(WorkloadTest, ShareGptHasThePublishedMeans) {
  double prompt = 0, output = 0;
  const int64_t count = 20'000;
  for (const LoadRequest& request : Make({.name = "sharegpt", .max_length = 1 << 20}, count)) {
    prompt += static_cast<double>(request.prompt.size());
    output += request.output_tokens;
  }
  EXPECT_NEAR(prompt / count, 161, 161 * 0.04);
  EXPECT_NEAR(output / count, 338, 338 * 0.04);
  for (const LoadRequest& request : Make({.name = "sharegpt", .max_length = 300}, 500)) {
    EXPECT_LE(static_cast<int32_t>(request.prompt.size()) + request.output_tokens, 300);
  }
}

TEST(WorkloadTest, SharedPrefixesAreShared) {
  const auto requests = Make({.name = "shared-prefix", .prompt_tokens = 10, .prefix_tokens = 30}, 3);
  for (const LoadRequest& request : requests) {
    ASSERT_EQ(request.prompt.size(), 40u);
    EXPECT_TRUE(std::equal(request.prompt.begin(), request.prompt.begin() + 30, requests[0].prompt.begin()));
  }
  EXPECT_NE(requests[0].prompt, requests[1].prompt);
}

TEST(WorkloadTest, InterferenceMixesStreamsAndPrompts) {
  const auto requests = Make({.name = "interference", .prompt_tokens = 128, .output_tokens = 64}, 8);
  EXPECT_EQ(std::ranges::count(requests, "prompt", &LoadRequest::kind), 2);
  EXPECT_EQ(requests[3].prompt.size(), 512u);
  EXPECT_EQ(requests[3].output_tokens, 1);
  EXPECT_EQ(requests[0].output_tokens, 64);
}

TEST(WorkloadTest, WhatCannotBeIsRefused) {
  EXPECT_FALSE(MakeWorkload({.name = "chat"}, 1).ok());
  EXPECT_FALSE(MakeWorkload({.prompt_tokens = 2000, .output_tokens = 100}, 1).ok());
  EXPECT_FALSE(MakeWorkload({.vocab_size = 3}, 1).ok());
}

// Gaps of a Poisson process are exponential: mean and standard deviation are both 1 / rate.
TEST(WorkloadTest, PoissonArrivalsAreExponentialGaps) {
  const std::vector<double> due = PoissonArrivals(50, 20'000, 7);
  double mean = 0, square = 0;
  for (size_t i = 1; i < due.size(); ++i) {
    ASSERT_GE(due[i], due[i - 1]);
    mean += (due[i] - due[i - 1]) / static_cast<double>(due.size() - 1);
    square += std::pow(due[i] - due[i - 1], 2) / static_cast<double>(due.size() - 1);
  }
  EXPECT_NEAR(mean, 0.02, 0.02 * 0.03);
  EXPECT_NEAR(std::sqrt(square - mean * mean), 0.02, 0.02 * 0.03);
  EXPECT_EQ(EvenArrivals(4, 3), (std::vector<double>{0, 0.25, 0.5}));
}

}  // namespace
}  // namespace optserve::bench
