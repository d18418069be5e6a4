#include "server/commands/run_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>

namespace optserve {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

class RunSummaryTest : public testing::Test {
 protected:
  std::string Written() {
    std::rewind(file_);
    std::array<char, 4096> bytes = {};
    const size_t size = std::fread(bytes.data(), 1, bytes.size(), file_);
    return {bytes.data(), size};
  }

  ~RunSummaryTest() override { std::fclose(file_); }

  std::FILE* file_ = std::tmpfile();
  Log log_{LogFormat::kText, file_};
  const RunSummary::Clock::time_point begin_ = RunSummary::Clock::now();
  RunSummary summary_{log_, begin_};
};

TEST_F(RunSummaryTest, OneLineSaysWhatTenSecondsBrought) {
  const EngineStats stats = {.running = 3,
                             .waiting = 1,
                             .blocks_total = 100,
                             .blocks_used = 25,
                             .steps = 50,
                             .prompt_tokens = 1000,
                             .generated_tokens = 205,
                             .preemptions = 2,
                             .prefix_cache_queries = 10,
                             .prefix_cache_hits = 4};
  summary_.Update(stats, begin_ + seconds(9));
  EXPECT_EQ(Written(), "");
  summary_.Update(stats, begin_ + seconds(10));
  EXPECT_THAT(Written(), HasSubstr("info summary running=3 waiting=1 kv_cache_usage=0.25 prompt_tokens_per_second=100 "
                                   "generated_tokens_per_second=20.5 prefix_cache_hit_ratio=0.4 steps_per_second=5 "
                                   "preemptions=2\n"));
}

TEST_F(RunSummaryTest, AnEngineWithoutWorkIsNotWrittenOf) {
  summary_.Update({.steps = 0}, begin_ + seconds(10));
  summary_.Update({.steps = 0}, begin_ + seconds(20));
  EXPECT_EQ(Written(), "");
}

TEST_F(RunSummaryTest, AYoungerEnginesCountersAreNoNegativeRates) {
  summary_.Update({.steps = 50, .generated_tokens = 500}, begin_ + seconds(10));
  summary_.Update({.running = 1, .steps = 5, .generated_tokens = 10}, begin_ + seconds(20));
  EXPECT_THAT(Written(), testing::Not(HasSubstr("=-")));
}

}  // namespace
}  // namespace optserve
