#include <dlfcn.h>
#include <nccl.h>

#include <atomic>
#include <utility>

#include "engine/comm/communicator.h"
#include "engine/comm/group_failure.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "kernels/common/check.h"
#include "kernels/common/cuda_device.h"

namespace optserve {
namespace {

// NCCL's functions. It is loaded, not linked: 200 MB that most machines do without.
struct Nccl {
  decltype(&ncclCommInitAll) comm_init_all = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclCommGetAsyncError) get_async_error = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
};

absl::StatusOr<const Nccl*> LoadNccl() {
  static const auto* loaded = [] {
    auto* result = new absl::StatusOr<const Nccl*>;
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      *result = FailedPrecondition("NCCL is not installed (libnccl.so.2, which LD_LIBRARY_PATH may name)");
      return result;
    }
    auto* nccl = new Nccl;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    if (find(nccl->comm_init_all, "ncclCommInitAll") && find(nccl->all_reduce, "ncclAllReduce") &&
        find(nccl->all_gather, "ncclAllGather") && find(nccl->get_async_error, "ncclCommGetAsyncError") &&
        find(nccl->abort, "ncclCommAbort") && find(nccl->error_string, "ncclGetErrorString")) {
      *result = nccl;
    } else {
      *result = FailedPrecondition("libnccl.so.2 lacks functions of NCCL 2.4");
    }
    return result;
  }();
  return *loaded;
}

// Sums by a ring or a tree of NCCL's choice: the same bits on every rank, not those of another number of ranks.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const Nccl& nccl, int rank, int size, ncclComm_t comm, CudaDevice& device,
                   std::shared_ptr<GroupFailure> failure)
      : nccl_(nccl), rank_(rank), size_(size), comm_(comm), device_(device), failure_(std::move(failure)) {}
  // Without waiting for ranks that may be dead. Nothing is under way when a group ends well.
  ~NcclCommunicator() override { EndComm(); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool sums_as_tree() const override { return false; }
  uint64_t num_arrivals() const override { return num_calls_.load(std::memory_order_relaxed); }

  void AllReduceSum(const TensorView& inout) override {
    OPTSERVE_CHECK(inout.dtype == DType::kF32 && inout.is_contiguous());
    Call([&](ncclComm_t comm, cudaStream_t stream) {
      return nccl_.all_reduce(inout.data, inout.data, static_cast<size_t>(inout.num_elements()), ncclFloat, ncclSum,
                              comm, stream);
    });
  }
  void AllGather(const TensorView& shard, const TensorView& all) override {
    OPTSERVE_CHECK(shard.dtype == all.dtype && shard.is_contiguous() && all.is_contiguous());
    OPTSERVE_CHECK(all.num_elements() == shard.num_elements() * size_);
    Call([&](ncclComm_t comm, cudaStream_t stream) {
      return nccl_.all_gather(shard.data, all.data, shard.num_bytes(), ncclChar, comm, stream);
    });
  }

  absl::Status Check() override {
    if (ncclComm_t comm = comm_.load(); comm != nullptr) {
      ncclResult_t error = ncclSuccess;
      nccl_.get_async_error(comm, &error);
      if (error != ncclSuccess && error != ncclInProgress) Note(error);
    }
    return failure_->Get();
  }

  // Only this rank's end: each rank's thread ends its own when Check shows it the failure, and NCCL's kernels of the
  // others leave when a peer has gone.
  void Abort(const absl::Status& why) override {
    failure_->Set(why);
    EndComm();
  }

 private:
  template <typename F>
  void Call(F call) {
    num_calls_.fetch_add(1, std::memory_order_relaxed);
    ncclComm_t comm = comm_.load();
    if (comm == nullptr || !failure_->Get().ok()) return;
    device_.Activate();
    if (const ncclResult_t result = call(comm, static_cast<cudaStream_t>(device_.stream())); result != ncclSuccess) {
      Note(result);
    }
  }
  void Note(ncclResult_t result) {
    failure_->Set(absl::InternalError(fmt::format("rank {}: NCCL: {}", rank_, nccl_.error_string(result))));
  }
  void EndComm() {
    if (ncclComm_t comm = comm_.exchange(nullptr); comm != nullptr) nccl_.abort(comm);
  }

  const Nccl& nccl_;
  const int rank_, size_;
  std::atomic<ncclComm_t> comm_;
  CudaDevice& device_;
  std::shared_ptr<GroupFailure> failure_;
  std::atomic<uint64_t> num_calls_ = 0;  // queued; the GPU may be behind
};

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> MakeNcclCommunicators(std::span<Backend* const> ranks) {
  OPTSERVE_ASSIGN_OR_RETURN(const Nccl* nccl, LoadNccl());
  std::vector<int> devices;
  for (Backend* rank : ranks) devices.push_back(rank->cuda_device()->index());
  std::vector<ncclComm_t> comms(ranks.size());
  const ncclResult_t result = nccl->comm_init_all(comms.data(), static_cast<int>(ranks.size()), devices.data());
  if (result != ncclSuccess) {
    return FailedPrecondition("NCCL cannot join {} GPUs: {}", ranks.size(), nccl->error_string(result));
  }
  const auto failure = std::make_shared<GroupFailure>();
  std::vector<std::unique_ptr<Communicator>> group;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    group.push_back(std::make_unique<NcclCommunicator>(*nccl, static_cast<int>(rank), static_cast<int>(ranks.size()),
                                                       comms[rank], *ranks[rank]->cuda_device(), failure));
  }
  return group;
}

}  // namespace optserve
