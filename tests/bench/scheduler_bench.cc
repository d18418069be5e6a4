#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <vector>

#include "engine/scheduler/block_manager.h"
#include "engine/scheduler/prefix_hash.h"
#include "engine/scheduler/scheduler.h"
#include "tests/support/scheduler_load.h"

// What the scheduler costs, in CPU time of this thread. Each figure is printed beside its goal; nothing fails.

namespace optserve {
namespace {

double CpuMicroseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

void MeasureSteps() {
  for (const int32_t prompt_tokens : {16, 1000}) {
    DecodingLoad load(/*num_sequences=*/256, prompt_tokens);
    for (int step = 0; step < 50; ++step) load.Step();
    std::vector<double> rounds;
    for (int round = 0; round < 30; ++round) {
      const double start = CpuMicroseconds();
      for (int step = 0; step < 48; ++step) load.Step();  // three blocks
      rounds.push_back((CpuMicroseconds() - start) / 48);
    }
    std::printf("PlanStep + Commit, 256 sequences, %4d tokens of prompt: %6.1f us a step (goal 20)\n", prompt_tokens,
                Median(rounds));
  }
}

// Adds `depth` requests of many users, then starts and ends a thousand of them one at a time.
void MeasureQueue(int32_t depth) {
  Scheduler scheduler({.num_blocks = 1024,
                       .block_size = 16,
                       .max_num_seqs = 1,
                       .max_num_batched_tokens = 2048,
                       .check_invariants = false});
  const double start = CpuMicroseconds();
  for (int32_t i = 0; i < depth; ++i) {
    scheduler.Add({.id = static_cast<RequestId>(i + 1),
                   .prompt = std::vector<int32_t>(8, i % 50000),
                   .max_tokens = 1,
                   .api_key_id = std::to_string(i % 7),
                   .user = std::to_string(i % 101)},
                  /*owner=*/0, /*now_ns=*/i);
  }
  const double added = CpuMicroseconds();
  constexpr int kStarts = 1000;
  for (int i = 0; i < kStarts; ++i) {
    const StepPlan& plan = scheduler.PlanStep(depth);
    StepResult result{.step = plan.step, .sampled = {{.slice = 0, .token = {.id = 5}}}};
    scheduler.Commit(std::move(result));
    scheduler.events().clear();
  }
  const double served = CpuMicroseconds();
  std::printf("queue of %6d: add %5.2f us, start and end %5.2f us a request\n", depth, (added - start) / depth,
              (served - added) / kStarts);
}

void MeasurePrefixLookup() {
  constexpr int32_t kBlockSize = 16;
  constexpr int32_t kTokens = 2048;
  BlockManager blocks(20000, kBlockSize);
  const PrefixHasher hasher({1, 2});
  std::vector<int32_t> tokens(kTokens);
  const auto lookup = [&](bool is_first) {
    PrefixHash hash = hasher.Root("key", "salt");
    int32_t hits = 0;
    for (int32_t i = 0; i < kTokens; i += kBlockSize) {
      hash = hasher.Extend(hash, std::span(tokens).subspan(i, kBlockSize));
      if (is_first) blocks.Register(blocks.Allocate(), hash);
      hits += blocks.Find(hash) != BlockManager::kNone ? 1 : 0;
    }
    return hits;
  };
  constexpr int kPrompts = 100;
  const auto prompt = [&](int i) { std::ranges::fill(tokens, i); };
  for (int i = 0; i < kPrompts; ++i) {
    prompt(i);
    lookup(/*is_first=*/true);
  }
  std::vector<double> rounds;
  int hits = 0;
  for (int i = 0; i < kPrompts; ++i) {
    prompt(i);
    const double start = CpuMicroseconds();
    hits += lookup(/*is_first=*/false);
    rounds.push_back(CpuMicroseconds() - start);
  }
  std::printf("prefix lookup of 2048 tokens, %d of %d blocks found: %.1f us (goal 20)\n", hits,
              kPrompts * kTokens / kBlockSize, Median(rounds));
}

}  // namespace
}  // namespace optserve

int main() {
  optserve::MeasureSteps();
  for (const int32_t depth : {1000, 10000, 100000}) optserve::MeasureQueue(depth);
  optserve::MeasurePrefixLookup();
}
