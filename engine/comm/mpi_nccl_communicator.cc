#include "engine/comm/mpi_nccl_communicator.h"

#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "engine/comm/nccl_communicator.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using Progress = MpiGroup::Progress;
using Joined = absl::StatusOr<std::unique_ptr<NcclCommunicator>>;

class MpiNcclCommunicator final : public Communicator {
 public:
  MpiNcclCommunicator(MpiGroup& group, std::unique_ptr<NcclCommunicator> nccl, Backend& backend)
      : group_(group), nccl_(std::move(nccl)), backend_(backend) {}

  int rank() const override { return nccl_->rank(); }
  int size() const override { return nccl_->size(); }
  bool sums_as_tree() const override { return nccl_->sums_as_tree(); }
  std::string WhyNoCapture() const override { return nccl_->WhyNoCapture(); }
  void NoteLaunch() override { nccl_->NoteLaunch(); }
  bool check_waits_for_all() const override { return true; }
  uint64_t num_arrivals() const override { return nccl_->num_arrivals(); }

  void AllReduceSum(const TensorView& inout) override { nccl_->AllReduceSum(inout); }
  void AllGather(const TensorView& shard, const TensorView& all) override { nccl_->AllGather(shard, all); }

  // Waits for the GPUs of all ranks, if any of them was given something to add up.
  absl::Status Check() override {
    const uint64_t arrivals = nccl_->num_arrivals();
    if (arrivals == num_checked_) return group_.status();
    num_checked_ = arrivals;
    absl::Status mine;
    const Progress progress = group_.WaitTogether([&] {
      if (!nccl_->IsDone()) return Progress::kWaiting;
      mine = nccl_->Check();
      if (mine.ok()) mine = backend_.Synchronize();
      return mine.ok() ? Progress::kDone : Progress::kFailed;
    });
    if (progress == Progress::kDone) return absl::OkStatus();
    if (!mine.ok()) group_.Abort(Within(group_.Name(rank()), mine));
    nccl_->Abort(group_.status());  // or the GPU waits for ever, and whoever frees its memory with it
    return group_.status();
  }

  void Abort(const absl::Status& why) override {
    group_.Abort(why);
    nccl_->Abort(why);
  }

 private:
  MpiGroup& group_;
  std::unique_ptr<NcclCommunicator> nccl_;
  Backend& backend_;
  uint64_t num_checked_ = 0;  // arrivals before the last Check
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeMpiNcclCommunicator(MpiGroup& group, const nccl::UniqueId& id,
                                                                      Backend& backend) {
  // NCCL waits for ranks that may not come, so it does that on a thread that can be left behind.
  std::promise<Joined> promise;
  std::future<Joined> joining = promise.get_future();
  std::thread([&backend, id, rank = group.rank(), size = group.size(), promise = std::move(promise)]() mutable {
    promise.set_value(JoinNccl(id, rank, size, backend, MakeNcclGroup()));
  }).detach();
  Joined joined = FailedPrecondition("NCCL has not joined the ranks");
  bool is_joined = false;
  const Progress progress = group.WaitTogether([&] {
    if (!is_joined && joining.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
      joined = joining.get();
      is_joined = true;
    }
    return !is_joined ? Progress::kWaiting : joined.ok() ? Progress::kDone : Progress::kFailed;
  });
  if (progress == Progress::kDone) {
    return std::make_unique<MpiNcclCommunicator>(group, *std::move(joined), backend);
  }
  if (is_joined && !joined.ok()) group.Abort(Within(group.Name(group.rank()), joined.status()));
  return group.status();
}

}  // namespace optserve
