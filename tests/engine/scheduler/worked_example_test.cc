#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "tests/engine/scheduler/harness.h"

// engine/README.md explains the policy by an example; here it is run, line by line.

namespace optserve {
namespace {

// The lines between ```schedule and ``` of the contract.
std::vector<std::string> ExampleInReadme() {
  std::ifstream file("engine/README.md");
  std::vector<std::string> lines;
  bool is_inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line == "```") is_inside = false;
    if (is_inside) lines.push_back(line);
    if (line == "```schedule") is_inside = true;
  }
  return lines;
}

TEST(WorkedExampleTest, HappensAsTheContractSays) {
  SchedulerHarness harness({.num_blocks = 9, .block_size = 4, .max_num_seqs = 3, .max_num_batched_tokens = 8},
                           [](SchedulerOptions& options) { options.batch_step_tokens = 6; });
  const std::vector<int32_t> shared = MakePrompt(9, 1);
  const auto prompt = [&](int32_t size) { return std::vector<int32_t>(shared.begin(), shared.begin() + size); };
  const std::map<int, std::vector<GenerateRequest>> arrivals = {
      {1,
       {{.id = 1, .prompt = prompt(9), .max_tokens = 8, .api_key_id = "lab"},
        {.id = 2, .prompt = MakePrompt(4, 2), .max_tokens = 7, .api_key_id = "lab", .batch = true}}},
      {2, {{.id = 3, .prompt = MakePrompt(7, 3), .max_tokens = 6, .num_choices = 2, .api_key_id = "lab"}}},
      {4,
       {{.id = 4, .prompt = prompt(9), .max_tokens = 3, .api_key_id = "lab"},
        {.id = 5, .prompt = MakePrompt(3, 5), .max_tokens = 2, .api_key_id = "guest"}}}};
  const std::map<SequenceId, std::string> names = {{1, "A"}, {2, "B"}, {3, "C0"}, {4, "C1"}, {5, "D"}, {6, "E"}};
  std::vector<std::string> lines;
  for (int step = 1; step == 1 || harness.scheduler().HasWork(); ++step) {
    if (const auto now = arrivals.find(step); now != arrivals.end()) {
      for (const GenerateRequest& request : now->second) harness.Add(request);
    }
    const uint64_t preemptions = harness.scheduler().stats().preemptions;
    const StepPlan& plan = harness.Step();
    std::string line = fmt::format("{:>2}  ", step);
    const auto slices = [&](std::span<const SequenceSlice> of_kind) {
      std::string text;
      for (const SequenceSlice& slice : of_kind) {
        text += fmt::format("{}{} {}+{}", text.empty() ? "" : ", ", names.at(slice.sequence), slice.num_cached,
                            slice.num_tokens);
      }
      return text;
    };
    line += fmt::format("{:<24}  {:<16}", slices(plan.decodes()), slices(plan.prefills()));
    line += fmt::format("  {} used", harness.scheduler().blocks().num_used());
    if (!plan.block_copies.empty()) line += fmt::format(", {} copied", plan.block_copies.size());
    const uint64_t preempted = harness.scheduler().stats().preemptions - preemptions;
    if (preempted > 0) line += fmt::format(", {} preempted", preempted);
    lines.push_back(line);
  }
  harness.ExpectAnswersAreRight();
  EXPECT_THAT(lines, testing::ElementsAreArray(ExampleInReadme())) << [&] {
    std::string text = "it happens like this:\n";
    for (const std::string& line : lines) text += line + "\n";
    return text;
  }();
}

}  // namespace
}  // namespace optserve
