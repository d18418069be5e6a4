#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "engine/comm/communicator.h"

namespace optserve {
namespace {

// Runs body(communicator) on one thread per rank.
void OnAllRanks(int size, const std::function<void(Communicator&)>& body) {
  std::vector<std::unique_ptr<Communicator>> ranks = MakeThreadCommunicators(size);
  std::vector<std::thread> threads;
  for (const auto& rank : ranks) threads.emplace_back([&body, &rank] { body(*rank); });
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> RandomValues(int rank, int64_t count, int round) {
  std::mt19937 random(static_cast<unsigned>(1000 * round + rank));
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  std::vector<float> values(count);
  for (float& x : values) x = value(random);
  return values;
}

class ThreadCommunicatorTest : public testing::TestWithParam<int> {};  // ranks; 13 are more than this machine's cores

// The sum of ranks [first, first + count) by a binary tree.
std::vector<float> TreeSum(int first, int count, int64_t num_values) {
  if (count == 1) return RandomValues(first, num_values, 0);
  int left = 1;
  while (left * 2 < count) left *= 2;
  std::vector<float> sum = TreeSum(first, left, num_values);
  const std::vector<float> right = TreeSum(first + left, count - left, num_values);
  for (int64_t i = 0; i < num_values; ++i) sum[i] += right[i];
  return sum;
}

TEST_P(ThreadCommunicatorTest, SumsByATreeToTheSameBitsEverywhere) {
  const int size = GetParam();
  for (const int64_t count : {int64_t{1}, int64_t{7}, int64_t{16}, int64_t{1000}, int64_t{50'000}}) {
    const std::vector<float> expected = TreeSum(0, size, count);
    std::vector<std::vector<float>> results(size);
    OnAllRanks(size, [&](Communicator& comm) {
      results[comm.rank()] = RandomValues(comm.rank(), count, 0);
      comm.AllReduceSum(MakeView(results[comm.rank()].data(), DType::kF32, count));
    });
    for (const std::vector<float>& result : results) EXPECT_EQ(result, expected) << count;
  }
}

TEST_P(ThreadCommunicatorTest, GathersShardsInRankOrder) {
  const int size = GetParam();
  constexpr int64_t kCount = 300;
  std::vector<float> expected;
  for (int rank = 0; rank < size; ++rank) {
    const std::vector<float> values = RandomValues(rank, kCount, 0);
    expected.insert(expected.end(), values.begin(), values.end());
  }
  std::vector<std::vector<float>> results(size, std::vector<float>(size * kCount));
  OnAllRanks(size, [&](Communicator& comm) {
    std::vector<float> shard = RandomValues(comm.rank(), kCount, 0);
    comm.AllGather(MakeView(shard.data(), DType::kF32, kCount),
                   MakeView(results[comm.rank()].data(), DType::kF32, size, kCount));
  });
  for (const std::vector<float>& result : results) EXPECT_EQ(result, expected);
}

// Calls follow each other without pause, buffers are reused at once, and every rank goes at its own pace.
TEST_P(ThreadCommunicatorTest, ManyCallsInARowDoNotMix) {
  const int size = GetParam();
  OnAllRanks(size, [&](Communicator& comm) {
    std::vector<float> values(40), all(40 * size);
    for (int round = 0; round < 300; ++round) {
      if (round % (comm.rank() + 2) == 0) std::this_thread::yield();
      for (float& x : values) x = static_cast<float>(round + comm.rank());
      comm.AllReduceSum(MakeView(values.data(), DType::kF32, 40));
      ASSERT_EQ(values[39], static_cast<float>(size * round + size * (size - 1) / 2));
      for (float& x : values) x = static_cast<float>(round * comm.rank());
      comm.AllGather(MakeView(values.data(), DType::kF32, 40), MakeView(all.data(), DType::kF32, size, 40));
      for (int rank = 0; rank < size; ++rank) ASSERT_EQ(all[40 * rank + 17], static_cast<float>(round * rank));
    }
    EXPECT_TRUE(comm.Check().ok());
  });
}

// The last rank never comes; the others would wait for ever.
TEST_P(ThreadCommunicatorTest, AbortEndsAllWaitingAndSaysWhy) {
  const int size = GetParam();
  OnAllRanks(size, [&](Communicator& comm) {
    std::vector<float> values(40), all(40 * size);
    comm.AllReduceSum(MakeView(values.data(), DType::kF32, 40));
    if (comm.rank() == size - 1) {
      comm.Abort(absl::InternalError("first"));
      comm.Abort(absl::InternalError("second"));
    } else {
      comm.AllReduceSum(MakeView(values.data(), DType::kF32, 40));
      comm.AllGather(MakeView(values.data(), DType::kF32, 40), MakeView(all.data(), DType::kF32, size, 40));
    }
    EXPECT_EQ(comm.Check(), absl::InternalError("first"));
  });
}

TEST(ThreadCommunicatorArrivalsTest, WhoIsBehindHasArrivedLessOften) {
  const std::vector<std::unique_ptr<Communicator>> ranks = MakeThreadCommunicators(3);
  std::vector<std::thread> threads;
  for (const int rank : {0, 2}) {
    threads.emplace_back([&comm = *ranks[rank]] {
      float value = 1;
      comm.AllReduceSum(MakeView(&value, DType::kF32, 1));
    });
  }
  while (ranks[0]->num_arrivals() == 0 || ranks[2]->num_arrivals() == 0) std::this_thread::yield();
  EXPECT_EQ(ranks[1]->num_arrivals(), 0u);
  ranks[1]->Abort(absl::InternalError("hung"));
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadCommunicatorTest, testing::Values(1, 2, 3, 4, 13));

}  // namespace
}  // namespace optserve
