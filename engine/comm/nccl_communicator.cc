#include "engine/comm/nccl_communicator.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/comm/group_failure.h"
#include "engine/comm/patience.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "kernels/common/check.h"
#include "kernels/common/cuda_device.h"

namespace optserve {
namespace {

std::string VersionText(int version) {
  const int major = version < 10'000 ? version / 1000 : version / 10'000;  // it counted differently until 2.8
  const int minor = version < 10'000 ? version % 1000 / 100 : version % 10'000 / 100;
  return fmt::format("NCCL {}.{}.{}", major, minor, version % 100);
}

// A rank's ncclComm_t. Any thread.
class NcclEnd {
 public:
  NcclEnd(const nccl::Library& nccl, nccl::Comm* comm) : nccl_(nccl), comm_(comm) {}
  // Without waiting for ranks that may be dead. Nothing is under way when a group ends well, and no graph is left.
  ~NcclEnd() {
    Abort();
    aborting_.join();
  }
  NcclEnd(const NcclEnd&) = delete;
  NcclEnd& operator=(const NcclEnd&) = delete;

  // Success without a call, once it has been aborted.
  template <typename F>
  int Call(F call) {
    const std::lock_guard lock(mu_);
    if (is_aborted_) return nccl::kSuccess;
    return call(comm_);
  }

  // Kernels under way leave, and the ranks that they wait for are not waited for. On a thread of its own: NCCL comes
  // back when its kernels have left and the graphs that hold its calls are gone.
  void Abort() {
    if (is_aborted_.exchange(true)) return;
    aborting_ = std::thread([this] {
      // No call begins any more. One that has begun comes back soon, or waits for another rank until the abort.
      if (mu_.try_lock_for(std::chrono::milliseconds(200))) mu_.unlock();
      nccl_.abort(comm_);
    });
  }

 private:
  const nccl::Library& nccl_;
  nccl::Comm* const comm_;
  std::timed_mutex mu_;  // held during calls
  std::atomic<bool> is_aborted_ = false;
  std::thread aborting_;
};

}  // namespace

class NcclGroup {
 public:
  GroupFailure failure;

  NcclEnd* Add(std::unique_ptr<NcclEnd> end) {
    const std::lock_guard lock(mu_);
    return ends_.emplace_back(std::move(end)).get();
  }
  // All of this process: a kernel that waits for another GPU does not notice that its rank has ended.
  void Abort(const absl::Status& why) {
    failure.Set(why);
    const std::lock_guard lock(mu_);
    for (const auto& end : ends_) end->Abort();
  }

 private:
  std::mutex mu_;
  std::vector<std::unique_ptr<NcclEnd>> ends_ ABSL_GUARDED_BY(mu_);
};

namespace {

class LoadedNcclCommunicator final : public NcclCommunicator {
 public:
  LoadedNcclCommunicator(const nccl::Library& nccl, int rank, int size, NcclEnd& end, CudaDevice& device,
                         std::shared_ptr<NcclGroup> group)
      : nccl_(nccl), rank_(rank), size_(size), end_(end), device_(device), group_(std::move(group)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool sums_as_tree() const override { return false; }
  std::string WhyNoCapture() const override {
    if (nccl_.version >= nccl::kFirstWithGraphs) return "";
    return fmt::format("the ranks add up by {}, which graphs cannot hold; 2.9.6 is the first that they can",
                       VersionText(nccl_.version));
  }
  void NoteLaunch() override { CountArrival(); }
  bool check_waits_for_all() const override { return true; }
  uint64_t num_arrivals() const override { return num_arrivals_.load(std::memory_order_relaxed); }

  void AllReduceSum(const TensorView& inout) override {
    OPTSERVE_CHECK(inout.dtype == DType::kF32 && inout.is_contiguous());
    Call("AllReduce", [&](nccl::Comm* comm, nccl::Stream stream) {
      return nccl_.all_reduce(inout.data, inout.data, static_cast<size_t>(inout.num_elements()), nccl::kFloat,
                              nccl::kSum, comm, stream);
    });
  }
  void AllGather(const TensorView& shard, const TensorView& all) override {
    OPTSERVE_CHECK(shard.dtype == all.dtype && shard.is_contiguous() && all.is_contiguous());
    OPTSERVE_CHECK(all.num_elements() == shard.num_elements() * size_);
    Call("AllGather", [&](nccl::Comm* comm, nccl::Stream stream) {
      return nccl_.all_gather(shard.data, all.data, shard.num_bytes(), nccl::kChar, comm, stream);
    });
  }

  bool IsDone() override {
    device_.Activate();
    if (device_.IsIdle()) return true;
    int error = nccl::kSuccess;
    end_.Call([&](nccl::Comm* comm) { return nccl_.get_async_error(comm, &error); });
    if (error != nccl::kInProgress) NoteUnlessSuccess(error);
    return !group_->failure.Get().ok();
  }
  absl::Status Check() override {
    Patience patience;
    while (!IsDone()) patience.Rest();
    return group_->failure.Get();
  }
  void Abort(const absl::Status& why) override { group_->Abort(why); }

 private:
  template <typename F>
  void Call(const char* op, F call) {
    CountArrival();
    if (!group_->failure.Get().ok()) return;
    device_.Activate();
    device_.BeginOp(op);
    NoteUnlessSuccess(end_.Call([&](nccl::Comm* comm) { return call(comm, device_.stream()); }));
  }
  void CountArrival() { num_arrivals_.fetch_add(1, std::memory_order_relaxed); }
  void NoteUnlessSuccess(int result) {
    if (result == nccl::kSuccess) return;
    group_->failure.Set(Internal("rank {}: NCCL: {}", rank_, nccl_.error_string(result)));
  }

  const nccl::Library& nccl_;
  const int rank_, size_;
  NcclEnd& end_;  // of group_
  CudaDevice& device_;
  const std::shared_ptr<NcclGroup> group_;
  std::atomic<uint64_t> num_arrivals_ = 0;  // queued; the GPU may be behind
};

}  // namespace

std::shared_ptr<NcclGroup> MakeNcclGroup() { return std::make_shared<NcclGroup>(); }

absl::StatusOr<nccl::UniqueId> MakeNcclId() {
  OPTSERVE_ASSIGN_OR_RETURN(const nccl::Library* nccl, nccl::Load());
  nccl::UniqueId id = {};
  if (const int result = nccl->get_unique_id(&id); result != nccl::kSuccess) {
    return FailedPrecondition("NCCL does not start: {}", nccl->error_string(result));
  }
  return id;
}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> JoinNccl(const nccl::UniqueId& id, int rank, int size,
                                                           Backend& backend, std::shared_ptr<NcclGroup> group) {
  OPTSERVE_ASSIGN_OR_RETURN(const nccl::Library* nccl, nccl::Load());
  CudaDevice& device = *backend.cuda_device();
  device.Activate();
  nccl::Comm* comm = nullptr;
  if (const int result = nccl->comm_init_rank(&comm, size, id, rank); result != nccl::kSuccess) {
    return FailedPrecondition("NCCL cannot join {} GPUs: {}; NCCL_DEBUG=WARN in the environment makes it say more",
                              size, nccl->error_string(result));
  }
  NcclEnd* const end = group->Add(std::make_unique<NcclEnd>(*nccl, comm));
  return std::make_unique<LoadedNcclCommunicator>(*nccl, rank, size, *end, device, std::move(group));
}

absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> MakeNcclCommunicators(std::span<Backend* const> ranks) {
  OPTSERVE_ASSIGN_OR_RETURN(const nccl::UniqueId id, MakeNcclId());
  const int size = static_cast<int>(ranks.size());
  const std::shared_ptr<NcclGroup> group = MakeNcclGroup();
  std::vector<absl::StatusOr<std::unique_ptr<NcclCommunicator>>> joined(ranks.size());
  std::vector<std::thread> joining;  // each waits for all
  for (int rank = 0; rank < size; ++rank) {
    joining.emplace_back([&, rank] { joined[rank] = JoinNccl(id, rank, size, *ranks[rank], group); });
  }
  for (std::thread& thread : joining) thread.join();
  std::vector<std::unique_ptr<Communicator>> comms;
  for (auto& comm : joined) {
    if (!comm.ok()) return comm.status();
    comms.push_back(*std::move(comm));
  }
  return comms;
}

std::string NcclName() {
  const absl::StatusOr<const nccl::Library*> nccl = nccl::Load();
  return nccl.ok() ? VersionText((*nccl)->version) : "NCCL";
}

}  // namespace optserve
