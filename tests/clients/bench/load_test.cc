#include "clients/bench/load.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <thread>

#include "clients/bench/explain.h"
#include "clients/bench/summary.h"

namespace optserve::bench {
namespace {

using std::chrono::milliseconds;

// Answers one request at a time, each in a moment, and stands still once for `stall`.
class StallingTarget : public Target {
 public:
  explicit StallingTarget(milliseconds stall) : stall_(stall) {}

  Outcome Complete(const LoadRequest& request, const std::function<void(int)>& on_tokens) override {
    const std::lock_guard lock(mu_);
    if (++num_requests_ == 20) std::this_thread::sleep_for(stall_);
    for (int i = 0; i < request.output_tokens; ++i) on_tokens(1);
    return {.prompt_tokens = std::ssize(request.prompt), .output_tokens = request.output_tokens};
  }

 private:
  const milliseconds stall_;
  std::mutex mu_;
  int num_requests_ = 0;
};

// A server stands still for 500 ms while 100 requests a second are due: some 50 of them wait, 250 ms on average. Who
// counts from when a request was sent, and sends the next when the last has ended, sees one slow request of 200.
TEST(LoadTest, AStallIsChargedForEveryRequestThatItKeptWaiting) {
  const auto requests = MakeWorkload({.prompt_tokens = 4, .output_tokens = 1}, 200).value();
  for (const int32_t max_in_flight : {1, 64}) {
    StallingTarget target(milliseconds(500));
    const LoadResult result =
        RunLoad(target, requests, {.max_in_flight = max_in_flight, .due = EvenArrivals(100, 200)});
    const Summary summary = Summarize(result.records, 0, {});
    ASSERT_EQ(summary.answered, 200);
    const std::vector<double>& seconds = summary.latencies.end_to_end;
    const auto slow = std::ranges::count_if(seconds, [](double s) { return s > 0.1; });
    EXPECT_GE(slow, 35) << "at most " << max_in_flight << " under way";
    EXPECT_GT(Quantile(seconds, 0.99), 0.4);
    // What a tool would say that counts from sending, with one request under way.
    if (max_in_flight > 1) continue;
    const auto seen =
        std::ranges::count_if(result.records, [](const RequestRecord& r) { return r.ended - r.sent > 0.1; });
    EXPECT_LT(seen, slow / 5);
    EXPECT_GT(summary.late_p99, 0.3);
  }
}

TEST(LoadTest, AClosedLoopKeepsSoManyUnderWay) {
  class CountingTarget : public Target {
   public:
    Outcome Complete(const LoadRequest&, const std::function<void(int)>& on_tokens) override {
      const int running = ++now;
      if (running > most) most = running;
      // The first five wait for each other, and then some more, so that a sixth would be seen.
      for (int i = 0; i < 10'000 && most < 5; ++i) std::this_thread::sleep_for(milliseconds(1));
      std::this_thread::sleep_for(milliseconds(20));
      on_tokens(3);
      --now;
      return {.output_tokens = 3};
    }
    std::atomic<int> now = 0;
    std::atomic<int> most = 0;
  };
  CountingTarget target;
  const auto requests = MakeWorkload({.prompt_tokens = 4, .output_tokens = 3}, 40).value();
  const LoadResult result = RunLoad(target, requests, {.max_in_flight = 5});
  EXPECT_EQ(target.most, 5);
  ASSERT_EQ(result.records.size(), 40u);
  for (const RequestRecord& record : result.records) {
    EXPECT_EQ(record.num_tokens(), 3);
    EXPECT_LE(record.due, record.sent);
    EXPECT_LE(record.token_times.front(), record.ended);
  }
}

// A client that takes 20 ms for what a server answers in 1 ms.
TEST(LoadTest, AClientThatIsSlowerThanTheServerIsNamed) {
  class SlowClientTarget : public Target {
   public:
    explicit SlowClientTarget(milliseconds own) : own_(own) {}
    Outcome Complete(const LoadRequest&, const std::function<void(int)>& on_tokens) override {
      Outcome outcome{.output_tokens = 1};
      outcome.handed_over = std::chrono::steady_clock::now();
      std::this_thread::sleep_for(milliseconds(1));
      outcome.received = std::chrono::steady_clock::now();
      std::this_thread::sleep_for(own_);
      on_tokens(1);
      return outcome;
    }

   private:
    const milliseconds own_;
  };
  const auto requests = MakeWorkload({.prompt_tokens = 4, .output_tokens = 1}, 10).value();
  for (const bool is_slow : {false, true}) {
    SlowClientTarget target(milliseconds(is_slow ? 20 : 0));
    const LoadResult result = RunLoad(target, requests, {.max_in_flight = 2});
    const std::vector<std::string> limits =
        ClientLimits(result, Summarize(result.records, 0, {}), /*in_process=*/false, /*is_open=*/false);
    EXPECT_EQ(limits.size(), is_slow ? 1u : 0u);
    for (const RequestRecord& record : result.records) {
      EXPECT_GE(record.own_seconds, is_slow ? 0.02 : 0.0);
    }
  }
}

TEST(LoadTest, AStoppedLoadSendsNothingMore) {
  StallingTarget target(milliseconds(0));
  const std::atomic<bool> stop = true;
  const auto requests = MakeWorkload({}, 10).value();
  EXPECT_TRUE(RunLoad(target, requests, {.max_in_flight = 2, .stop = &stop}).records.empty());
}

}  // namespace
}  // namespace optserve::bench
