// Started by mpirun with several processes, which all run these tests side by side: see CMakeLists.txt.

#include "engine/comm/mpi_communicator.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/comm/mpi_group.h"

namespace optserve {
namespace {

MpiGroup* group = nullptr;  // main's

std::vector<float> RandomValues(int rank, int64_t count) {
  std::mt19937 random(static_cast<unsigned>(1000 + rank));
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = value(random);
  return values;
}

// What ranks that are threads of one process get.
std::vector<float> SumBetweenThreads(int size, int64_t count) {
  const std::vector<std::unique_ptr<Communicator>> ranks = MakeThreadCommunicators(size);
  std::vector<std::vector<float>> values;
  for (int rank = 0; rank < size; ++rank) values.push_back(RandomValues(rank, count));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ranks[static_cast<size_t>(rank)]->AllReduceSum(
          MakeView(values[static_cast<size_t>(rank)].data(), DType::kF32, count));
    });
  }
  for (std::thread& thread : threads) thread.join();
  return values[0];
}

TEST(MpiCommunicatorTest, SumsToTheSameBitsAsThreads) {
  const std::unique_ptr<Communicator> comm = MakeMpiCommunicator(*group);
  // Around the size from which on each rank adds up a part only, and where parts are not of the same size.
  for (const int64_t count : {1, 7, 1000, 8191, 8192, 8193, 50'001}) {
    std::vector<float> values = RandomValues(group->rank(), count);
    comm->AllReduceSum(MakeView(values.data(), DType::kF32, count));
    EXPECT_EQ(values, SumBetweenThreads(group->size(), count)) << count;
  }
  EXPECT_EQ(comm->num_arrivals(), 9u);  // of the two largest, two each: parts are added up, then sent around
  EXPECT_TRUE(comm->Check().ok());
}

TEST(MpiCommunicatorTest, GathersShardsInRankOrder) {
  const std::unique_ptr<Communicator> comm = MakeMpiCommunicator(*group);
  constexpr int64_t kCount = 300;
  std::vector<float> expected;
  for (int rank = 0; rank < group->size(); ++rank) {
    const std::vector<float> values = RandomValues(rank, kCount);
    expected.insert(expected.end(), values.begin(), values.end());
  }
  std::vector<float> shard = RandomValues(group->rank(), kCount);
  std::vector<float> all(expected.size());
  comm->AllGather(MakeView(shard.data(), DType::kF32, kCount),
                  MakeView(all.data(), DType::kF32, group->size(), kCount));
  EXPECT_EQ(all, expected);
}

// Calls follow each other without pause, buffers are reused at once, and every rank goes at its own pace.
TEST(MpiCommunicatorTest, ManyCallsInARowDoNotMix) {
  const std::unique_ptr<Communicator> comm = MakeMpiCommunicator(*group);
  const int size = group->size();
  std::vector<float> values(40), all(40 * static_cast<size_t>(size));
  for (int round = 0; round < 200; ++round) {
    if (round % (comm->rank() + 2) == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    for (float& x : values) x = static_cast<float>(round + comm->rank());
    comm->AllReduceSum(MakeView(values.data(), DType::kF32, 40));
    ASSERT_EQ(values[39], static_cast<float>(size * round + size * (size - 1) / 2));
    for (float& x : values) x = static_cast<float>(round * comm->rank());
    comm->AllGather(MakeView(values.data(), DType::kF32, 40), MakeView(all.data(), DType::kF32, size, 40));
    for (int rank = 0; rank < size; ++rank) {
      ASSERT_EQ(all[40 * static_cast<size_t>(rank) + 17], static_cast<float>(round * rank));
    }
  }
}

TEST(MpiGroupTest, MessagesOfAnyLengthArriveInOrder) {
  for (const size_t length : {0, 1, 1000, 3'000'000}) {
    if (group->rank() == 0) {
      ASSERT_TRUE(group->SendToOthers(std::string(length, 'a')).ok());
      const absl::StatusOr<std::vector<std::string>> answers = group->ReceiveFromOthers(60);
      ASSERT_TRUE(answers.ok()) << answers.status();
      for (int rank = 1; rank < group->size(); ++rank) {
        EXPECT_EQ((*answers)[static_cast<size_t>(rank)], std::string(length, static_cast<char>('a' + rank)));
      }
    } else {
      const absl::StatusOr<std::string> question = group->ReceiveFromFirst(60);
      ASSERT_TRUE(question.ok()) << question.status();
      EXPECT_EQ(*question, std::string(length, 'a'));
      ASSERT_TRUE(group->SendToFirst(std::string(length, static_cast<char>('a' + group->rank()))).ok());
    }
  }
}

TEST(MpiGroupTest, WhoIsWaitedForIsKnown) {
  const std::unique_ptr<Communicator> comm = MakeMpiCommunicator(*group);
  float value = 1;
  const int last = group->size() - 1;
  if (group->rank() == last) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  std::thread summing([&] { comm->AllReduceSum(MakeView(&value, DType::kF32, 1)); });
  if (group->rank() == 0 && last > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    EXPECT_EQ(group->awaited(), group->Name(last));
  }
  summing.join();
  EXPECT_EQ(value, static_cast<float>(group->size()));
  EXPECT_EQ(group->awaited(), "");
}

int RunAllTests(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<MpiGroup>> joined = MpiGroup::Join();
  if (!joined.ok()) return 1;
  group = joined->get();
  if (group->rank() > 0) GTEST_FLAG_SET(output, "");  // one report is enough
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) { return optserve::RunAllTests(argc, argv); }
