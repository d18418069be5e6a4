// Ranks that add up by NCCL: on emulated GPUs, or with OPTSERVE_ON_GPU on real ones, of which NCCL wants one for each
// rank.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/comm/communicator.h"
#include "kernels/backend.h"
#include "kernels/common/tensor.h"

namespace optserve {
namespace {

using std::chrono::steady_clock;

constexpr int kMaxRanks = 8;

// As many GPUs as there are, up to kMaxRanks, in a group.
class NcclRanks : public testing::Test {
 protected:
  void SetUp() override {
    setenv("OPTSERVE_EMULATOR_QUEUES", "1", 1);
    setenv("OPTSERVE_EMULATOR_NCCL_SILENT", "1", 1);
    for (int index = 0; index < kMaxRanks; ++index) {
      absl::StatusOr<std::unique_ptr<Backend>> backend = MakeBackend({.kind = DeviceKind::kCuda, .index = index});
      if (!backend.ok()) break;
      backends_.push_back(*std::move(backend));
      all_.push_back(backends_.back().get());
    }
    // Never on the emulator.
    if (all_.size() < 2) GTEST_SKIP() << "NCCL wants a GPU for each rank, and there are " << all_.size();
  }

  void Join(size_t size) {
    auto comms = MakeNcclCommunicators(std::span(all_).first(size));
    ASSERT_TRUE(comms.ok()) << comms.status();
    comms_ = *std::move(comms);
  }

  // Each rank on a thread of its own.
  void OnAllRanks(const std::function<void(Communicator&, Backend&)>& call) {
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < comms_.size(); ++rank) {
      threads.emplace_back([&, rank] { call(*comms_[rank], *all_[rank]); });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<std::unique_ptr<Backend>> backends_;
  std::vector<Backend*> all_;
  std::vector<std::unique_ptr<Communicator>> comms_;  // end before the backends
};

// Tensors of one rank, and what is to become of them: small whole numbers, whose sums are exact in any order.
class Numbers {
 public:
  Numbers(Communicator& comm, Backend& backend, int64_t n) : comm_(comm), backend_(backend), n_(n) {
    for (std::unique_ptr<Buffer>* buffer : {&sum_, &shard_}) *buffer = *backend.Allocate(bytes());
    all_ = *backend.Allocate(bytes() * static_cast<size_t>(comm.size()));
  }

  void Set(int round) {
    std::vector<float> numbers(static_cast<size_t>(n_));
    for (int64_t i = 0; i < n_; ++i) numbers[i] = Number(comm_.rank(), i, round);
    backend_.CopyIn(sum(), numbers.data());
    backend_.CopyIn(shard(), numbers.data());
  }
  void Call() {
    comm_.AllReduceSum(sum());
    comm_.AllGather(shard(), all());
  }
  void Expect(int round) {
    ASSERT_TRUE(comm_.Check().ok()) << comm_.Check();
    std::vector<float> sums(static_cast<size_t>(n_)), gathered(static_cast<size_t>(n_ * comm_.size()));
    backend_.CopyOut(sums.data(), sum());
    backend_.CopyOut(gathered.data(), all());
    ASSERT_TRUE(backend_.Synchronize().ok());
    for (int64_t i = 0; i < n_; ++i) {
      float expected = 0;
      for (int rank = 0; rank < comm_.size(); ++rank) {
        expected += Number(rank, i, round);
        ASSERT_EQ(gathered[rank * n_ + i], Number(rank, i, round)) << rank << ", " << i;
      }
      ASSERT_EQ(sums[i], expected) << i;
    }
  }

 private:
  static float Number(int rank, int64_t i, int round) { return static_cast<float>((rank + 1) * (i % 101) + round); }
  size_t bytes() const { return static_cast<size_t>(n_) * sizeof(float); }
  TensorView sum() const { return MakeView(sum_->data(), DType::kF32, n_); }
  TensorView shard() const { return MakeView(shard_->data(), DType::kF32, n_); }
  TensorView all() const { return MakeView(all_->data(), DType::kF32, comm_.size(), n_); }

  Communicator& comm_;
  Backend& backend_;
  const int64_t n_;
  std::unique_ptr<Buffer> sum_, shard_, all_;
};

TEST_F(NcclRanks, AddUpAndGatherAlsoInGraphs) {
  for (size_t size = 2; size <= all_.size(); size *= 2) {
    ASSERT_NO_FATAL_FAILURE(Join(size));
    OnAllRanks([](Communicator& comm, Backend& backend) {
      for (const int64_t n : {1, 1000, 100'003}) {
        Numbers numbers(comm, backend, n);
        numbers.Set(0);
        numbers.Call();
        numbers.Expect(0);
        ASSERT_EQ(comm.WhyNoCapture(), "");
        backend.BeginCapture();
        numbers.Call();
        const absl::StatusOr<std::unique_ptr<OpGraph>> graph = backend.EndCapture();
        ASSERT_TRUE(graph.ok()) << graph.status();
        for (int round = 1; round <= 3; ++round) {
          numbers.Set(round);
          comm.NoteLaunch();
          backend.Launch(**graph);
          numbers.Expect(round);
        }
      }
    });
    comms_.clear();
  }
}

// A rank that waits, in a graph too, comes back when another one says that the group is at its end, and the memory of
// both can be freed.
TEST_F(NcclRanks, ComeBackFromARankThatDoesNotCome) {
  for (const bool in_graph : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Join(2));
    const steady_clock::time_point begin = steady_clock::now();
    OnAllRanks([&](Communicator& comm, Backend& backend) {
      Numbers numbers(comm, backend, 1000);
      std::unique_ptr<OpGraph> graph;
      if (in_graph) {
        numbers.Call();
        ASSERT_TRUE(comm.Check().ok());
        backend.BeginCapture();
        numbers.Call();
        graph = *backend.EndCapture();
      }
      if (comm.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        return comm.Abort(absl::InternalError("rank 1 has failed"));
      }
      if (in_graph) {
        backend.Launch(*graph);
      } else {
        numbers.Call();
      }
      EXPECT_EQ(comm.Check().message(), "rank 1 has failed");
      EXPECT_GE(steady_clock::now() - begin, std::chrono::milliseconds(300));
    });
    comms_.clear();
    EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(10));
  }
}

}  // namespace
}  // namespace optserve
