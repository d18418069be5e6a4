#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_client.h"

// The real engine on a real model: what a shared prefix wins, and what planning ahead does. Ratios within one run;
// nothing fails. Usage: engine_bench [MODEL DIRECTORY], by default the demo model.

namespace optserve {
namespace {

using Clock = std::chrono::steady_clock;

class Waiter : public TokenSink {
 public:
  void OnEvents(std::vector<TokenEvent> events) override {
    const std::lock_guard lock(mu_);
    for (const TokenEvent& event : events) {
      num_finished_ += event.finish != FinishReason::kNone ? 1 : 0;
      cached_tokens_ = std::max(cached_tokens_, event.cached_tokens);
    }
    changed_.notify_all();
  }
  void Wait(int count) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return num_finished_ >= count; });
  }
  int32_t cached_tokens() {
    const std::lock_guard lock(mu_);
    return cached_tokens_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  int num_finished_ = 0;
  int32_t cached_tokens_ = 0;
};

class EngineBench {
 public:
  EngineBench(const std::string& model, int32_t steps_in_flight) {
    auto engine = StartLocalEngine({.model_path = model, .steps_in_flight = steps_in_flight});
    if (!engine.ok()) {
      std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
      std::exit(1);
    }
    engine_ = *std::move(engine);
  }

  std::vector<int32_t> Tokens(int count) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = std::uniform_int_distribution(4, engine_->model().vocab_size - 1)(random_);
    return ids;
  }

  // Seconds until all of `count` requests have ended, and how much of the prompt the cache had.
  std::pair<double, int32_t> Run(const std::vector<int32_t>& prompt, int32_t max_tokens, int count = 1) {
    const auto waiter = std::make_shared<Waiter>();
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) {
      GenerateRequest request{.id = next_id_++, .prompt = prompt, .max_tokens = max_tokens};
      request.sampling.temperature = 0.0f;
      if (const absl::Status status = engine_->Submit(std::move(request), waiter); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        std::exit(1);
      }
    }
    waiter->Wait(count);
    return {std::chrono::duration<double>(Clock::now() - start).count(), waiter->cached_tokens()};
  }

 private:
  std::unique_ptr<EngineClient> engine_;
  std::mt19937 random_{1};
  RequestId next_id_ = 1;
};

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

void MeasurePrefix(EngineBench& bench) {
  std::vector<double> cold, warm, ratios;
  int32_t cached = 0;
  for (int round = 0; round < 15; ++round) {
    std::vector<int32_t> prompt = bench.Tokens(900);
    const auto with_tail = [&] {
      std::vector<int32_t> ids = prompt;
      const std::vector<int32_t> tail = bench.Tokens(20);
      ids.insert(ids.end(), tail.begin(), tail.end());
      return ids;
    };
    cold.push_back(bench.Run(with_tail(), 1).first);
    const auto [seconds, hits] = bench.Run(with_tail(), 1);
    warm.push_back(seconds);
    cached = hits;
    ratios.push_back(warm.back() / cold.back());
  }
  std::printf(
      "time to first token, 920 tokens: cold %.2f ms, with %d of them cached %.2f ms: %.3f of it (goal at most 0.15)\n",
      1e3 * Median(cold), cached, 1e3 * Median(warm), Median(ratios));
}

void MeasureOverlap(EngineBench& one, EngineBench& two) {
  for (const int batch : {1, 16}) {
    const std::vector<int32_t> prompt = one.Tokens(30);
    std::vector<double> ratios;
    for (int round = 0; round < 9; ++round) {
      const double sequential = one.Run(prompt, 200, batch).first;
      const double overlapped = two.Run(prompt, 200, batch).first;
      ratios.push_back(overlapped / sequential);
    }
    std::printf("200 tokens, batch %2d: with two steps in flight %.3f of the time with one\n", batch, Median(ratios));
  }
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "deploy/demo-model";
  optserve::EngineBench one(model, 1), two(model, 2);
  optserve::MeasurePrefix(one);
  optserve::MeasureOverlap(one, two);
}
