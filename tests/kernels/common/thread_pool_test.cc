#include "kernels/common/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace optserve {
namespace {

TEST(ThreadPoolTest, EveryThreadRunsOnceAndTheCallerIsThreadZero) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    std::vector<int> calls(threads);
    std::vector<std::thread::id> ids(threads);
    pool.Run([&](int t) {
      ++calls[t];
      ids[t] = std::this_thread::get_id();
    });
    EXPECT_EQ(calls, std::vector<int>(threads, 1));
    EXPECT_EQ(ids[0], std::this_thread::get_id());
    for (int t = 1; t < threads; ++t) EXPECT_NE(ids[t], ids[t - 1]);
  }
}

TEST(ThreadPoolTest, RunSeesWhatCameBeforeAndIsSeenAfter) {
  ThreadPool pool(3);
  std::vector<int64_t> value(3);  // plain memory: ThreadSanitizer checks the ordering
  for (int i = 0; i < 2000; ++i) {
    pool.Run([&](int t) { value[t] = i + t; });
    EXPECT_EQ(std::accumulate(value.begin(), value.end(), int64_t{0}), 3 * i + 3);
  }
}

TEST(ThreadPoolTest, WorkersThatFellAsleepWake) {
  ThreadPool pool(2);
  int sum = 0;
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // well past the spinning
    std::vector<int> parts(2);
    pool.Run([&](int t) {
      if (t == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the caller sleeps, too
      parts[t] = 1;
    });
    sum += parts[0] + parts[1];
  }
  EXPECT_EQ(sum, 10);
}

TEST(ThreadPoolTest, SeveralPoolsWorkAtOnceOnFewerCores) {
  std::vector<int64_t> sums(4);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&sums, rank] {
      ThreadPool pool(3);
      std::vector<int64_t> parts(3);
      for (int i = 0; i < 300; ++i) pool.Run([&](int t) { parts[t] += i; });
      sums[rank] = parts[0] + parts[1] + parts[2];
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (int64_t sum : sums) EXPECT_EQ(sum, 3 * (299 * 300 / 2));
}

}  // namespace
}  // namespace optserve
