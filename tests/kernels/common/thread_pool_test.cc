#include "kernels/common/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace optserve {
namespace {

TEST(ThreadPoolTest, EveryUnitRunsOnce) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int units : {0, 1, 2, 3, 8, 100}) {
      std::vector<int> calls(units), by(units);
      pool.Run(units, [&](int unit, int thread) {
        ++calls[unit];
        by[unit] = thread;
      });
      EXPECT_EQ(calls, std::vector<int>(units, 1));
      for (int thread : by) EXPECT_TRUE(thread >= 0 && thread < threads);
    }
  }
}

// Two units that wait for each other end only if two threads run them; and no two threads have the same number.
TEST(ThreadPoolTest, UnitsRunAtTheSameTimeOnThreadsWithNumbersOfTheirOwn) {
  ThreadPool pool(3);
  const std::thread::id caller = std::this_thread::get_id();
  for (int i = 0; i < 50; ++i) {
    std::atomic<int> arrived = 0;
    std::vector<int> by(3);
    pool.Run(3, [&](int unit, int thread) {
      by[unit] = thread;
      EXPECT_EQ(thread == 0, std::this_thread::get_id() == caller);
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
    });
    std::sort(by.begin(), by.end());
    EXPECT_EQ(by, (std::vector<int>{0, 1, 2}));
  }
}

TEST(ThreadPoolTest, RunOnAllCallsEveryThreadOnceAlsoBetweenOtherRuns) {
  ThreadPool pool(3);
  std::vector<std::thread::id> ids(3);
  pool.RunOnAll([&](int thread) { ids[thread] = std::this_thread::get_id(); });
  EXPECT_EQ(ids[0], std::this_thread::get_id());
  for (int i = 0; i < 1000; ++i) {
    std::vector<int> calls(3), units(7);
    pool.RunOnAll([&](int thread) { calls[thread] += ids[thread] == std::this_thread::get_id() ? 1 : 100; });
    ASSERT_EQ(calls, (std::vector<int>{1, 1, 1}));
    pool.Run(7, [&](int unit, int) { ++units[unit]; });
    ASSERT_EQ(units, std::vector<int>(7, 1));
  }
}

// What makes a busy machine bearable: a thread that cannot run holds nobody up.
TEST(ThreadPoolTest, OthersDoTheUnitsOfAThreadThatIsHeldBack) {
  ThreadPool pool(2);
  std::vector<int> by(40);
  std::atomic<int> done = 0;
  pool.Run(40, [&](int unit, int thread) {
    by[unit] = thread;
    if (thread == 1) {  // as if the operating system had stopped it within its first unit
      while (done < 39) std::this_thread::yield();
    } else if (unit == 39) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // let the worker get its one unit
    }
    ++done;
  });
  EXPECT_EQ(done, 40);
  EXPECT_LE(std::count(by.begin(), by.end(), 1), 1);
}

TEST(ThreadPoolTest, RunSeesWhatCameBeforeAndIsSeenAfter) {
  ThreadPool pool(3);
  std::vector<int64_t> value(5);  // plain memory: ThreadSanitizer checks the ordering
  for (int i = 0; i < 2000; ++i) {
    pool.Run(5, [&](int unit, int) { value[unit] = i + unit; });
    EXPECT_EQ(std::accumulate(value.begin(), value.end(), int64_t{0}), 5 * i + 10);
  }
}

TEST(ThreadPoolTest, WorkersThatFellAsleepWake) {
  ThreadPool pool(2);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // well past the spinning
    std::atomic<int> arrived = 0;
    pool.Run(2, [&](int, int thread) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();                               // needs the worker
      if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the caller sleeps, too
    });
    EXPECT_EQ(arrived, 2);
  }
}

TEST(ThreadPoolTest, SeveralPoolsWorkAtOnceOnFewerCores) {
  std::vector<int64_t> sums(4);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&sums, rank] {
      ThreadPool pool(3);
      std::vector<int64_t> parts(6);
      for (int i = 0; i < 300; ++i) pool.Run(6, [&](int unit, int) { parts[unit] += i; });
      sums[rank] = std::accumulate(parts.begin(), parts.end(), int64_t{0});
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (int64_t sum : sums) EXPECT_EQ(sum, 6 * (299 * 300 / 2));
}

}  // namespace
}  // namespace optserve
