#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "engine/comm/communicator.h"
#include "engine/comm/group_failure.h"
#include "engine/comm/tree_sum.h"
#include "kernels/common/check.h"

namespace optserve {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Where all ranks wait for each other. Spins for some tens of microseconds, about the time by which ranks that do the
// same work differ, and then sleeps; with more ranks than processors it sleeps at once.
class Barrier {
 public:
  explicit Barrier(int size)
      : size_(size), spins_(size <= static_cast<int>(std::thread::hardware_concurrency()) ? 5000 : 0) {}

  // Also returns, from then on at once, when the barrier is aborted.
  void Wait() {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (is_aborted()) return;
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    for (int i = 0; i < spins_; ++i) {
      if (round_.load(std::memory_order_acquire) != round) return;
      Pause();
      // The rank that we wait for may want this processor: on a machine that has other work too, ten times faster.
      if (i % 64 == 63) std::this_thread::yield();
    }
    while (round_.load(std::memory_order_acquire) == round) round_.wait(round, std::memory_order_acquire);
  }

  // Those who read the round before this see it change; those who read it after see is_aborted().
  void Abort() {
    is_aborted_.store(true, std::memory_order_release);
    round_.fetch_add(1, std::memory_order_acq_rel);
    round_.notify_all();
  }

  bool is_aborted() const { return is_aborted_.load(std::memory_order_acquire); }

 private:
  const int size_;
  const int spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  std::atomic<bool> is_aborted_{false};
};

struct alignas(64) ArrivalCount {
  std::atomic<uint64_t> value{0};
};

// What the ranks of a group share: a barrier, and where each rank's tensor lies during a call.
struct Group {
  explicit Group(int size_in) : size(size_in), barrier(size_in), tensors(size_in), arrivals(size_in) {}
  const int size;
  Barrier barrier;
  std::vector<TensorView> tensors;
  std::vector<ArrivalCount> arrivals;  // by rank
  GroupFailure failure;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }
  uint64_t num_arrivals() const override { return group_->arrivals[rank_].value.load(std::memory_order_relaxed); }

  bool sums_as_tree() const override { return true; }

  absl::Status Check() override { return group_->barrier.is_aborted() ? group_->failure.Get() : absl::OkStatus(); }
  void Abort(const absl::Status& why) override {
    if (group_->failure.Set(why)) group_->barrier.Abort();
  }

  // Every rank sums one part of the tensor and writes the sum to all ranks.
  void AllReduceSum(const TensorView& inout) override {
    OPTSERVE_CHECK(inout.dtype == DType::kF32 && inout.is_contiguous());
    if (group_->size == 1) return;
    if (!Publish(inout)) return;
    const int64_t n = inout.num_elements();
    for (const TensorView& other : group_->tensors) OPTSERVE_CHECK(other.num_elements() == n);
    // Parts end at cache lines, so that no two ranks write to one.
    constexpr int64_t kLine = 16;
    const int64_t lines = (n + kLine - 1) / kLine;
    const int64_t begin = std::min(n, lines * rank_ / group_->size * kLine);
    const int64_t end = std::min(n, lines * (rank_ + 1) / group_->size * kLine);
    for (int64_t i = begin; i < end; i += kTreeSumPiece) SumPiece(i, std::min(kTreeSumPiece, end - i));
    Wait();
  }

  void AllGather(const TensorView& shard, const TensorView& all) override {
    OPTSERVE_CHECK(shard.dtype == all.dtype && shard.is_contiguous() && all.is_contiguous());
    OPTSERVE_CHECK(all.num_elements() == shard.num_elements() * group_->size);
    if (!Publish(shard)) return;
    const size_t bytes = shard.num_bytes();
    for (int r = 0; r < group_->size; ++r) {
      std::memcpy(static_cast<std::byte*>(all.data) + r * bytes, group_->tensors[r].data, bytes);
    }
    Wait();
  }

 private:
  // After this, every rank sees every rank's tensor; after the barrier that ends the call it may change again. False:
  // the group has been aborted, and not all tensors are there.
  bool Publish(const TensorView& view) {
    group_->tensors[rank_] = view;
    Wait();
    return !group_->barrier.is_aborted();
  }

  void Wait() {
    group_->arrivals[rank_].value.fetch_add(1, std::memory_order_relaxed);
    group_->barrier.Wait();
  }

  void SumPiece(int64_t begin, int64_t n) const {
    std::array<float, kTreeSumPiece> sum;
    const auto of_rank = [this](int rank) { return group_->tensors[static_cast<size_t>(rank)].as<const float>(); };
    TreeSum(of_rank, 0, group_->size, begin, n, sum.data());
    for (const TensorView& to : group_->tensors) std::copy_n(sum.begin(), n, to.as<float>() + begin);
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size) {
  OPTSERVE_CHECK(size >= 1) << "size is " << size;
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<ThreadCommunicator>(group, r));
  return ranks;
}

}  // namespace optserve
