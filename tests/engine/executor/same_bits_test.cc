// Whatever else goes on, a request's tokens and log probabilities are, bit for bit, those that it gets alone, on the
// CPU backend. tests/cuda_emulator/steps_in_flight_test.cc does the same on emulated GPUs.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/support/golden_models.h"
#include "tests/support/random_traffic.h"

namespace optserve {
namespace {

EngineConfig ConfigOf(const std::string& name, int32_t tensor_parallel_size = 1, int32_t steps_in_flight = 1) {
  return {.model_path = LoadGoldenModel(name).directory,
          .tensor_parallel_size = tensor_parallel_size,
          .max_num_seqs = 16,
          .max_num_batched_tokens = 256,
          .block_size = 4,
          .kv_cache_bytes = int64_t{16} << 20,
          .steps_in_flight = steps_in_flight,
          .num_threads = tensor_parallel_size};
}

class SameBitsTest : public testing::TestWithParam<std::string> {};

TEST_P(SameBitsTest, AnyTrafficGivesWhatEachRequestGetsAlone) {
  TrafficModel model(ConfigOf(GetParam()));
  Disturbances all;
  for (uint64_t seed = 1; seed <= 8 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Disturbances some = RunTraffic(model, model, seed, /*num_requests=*/50);
    all.preemptions += some.preemptions;
    all.cache_hits += some.cache_hits;
  }
  // Else the test would say nothing.
  EXPECT_GT(all.preemptions, 50);
  EXPECT_GT(all.cache_hits, 50);
}

INSTANTIATE_TEST_SUITE_P(Models, SameBitsTest, testing::Values("preln_d64", "postln_proj"),
                         [](const auto& info) { return info.param; });

TEST(SameBitsTest, AlsoOnTwoRanks) {
  TrafficModel model(ConfigOf("preln_d64", /*tensor_parallel_size=*/2));
  RunTraffic(model, model, /*seed=*/99, /*num_requests=*/15);
}

// Alone one step after the other.
TEST(SameBitsTest, AlsoWithStepsPlannedAhead) {
  TrafficModel model(ConfigOf("preln_d64", 1, /*steps_in_flight=*/2)), alone(ConfigOf("preln_d64"));
  EXPECT_EQ(model.max_steps_in_flight(), 2);
  for (uint64_t seed = 1; seed <= 5 && !HasFailure(); ++seed) RunTraffic(model, alone, seed, /*num_requests=*/50);
}

// Ids come from rank 0 to the others.
TEST(SameBitsTest, AlsoWithStepsPlannedAheadOnTwoRanks) {
  TrafficModel model(ConfigOf("preln_d64", 2, /*steps_in_flight=*/2)), alone(ConfigOf("preln_d64", 2));
  RunTraffic(model, alone, /*seed=*/98, /*num_requests=*/15);
}

}  // namespace
}  // namespace optserve
