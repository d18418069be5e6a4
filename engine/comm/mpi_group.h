#pragma once

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/util/awaited_ranks.h"

namespace optserve {

// The processes that mpirun or srun started, of which this one is rank(). All waiting is by asking again and again, so
// that every wait ends when the group does: when a rank has called Abort, or when the rank that is waited for has been
// silent for longer than the limit.
//
// Threads  Any; MPI itself is called by one thread at a time.
class MpiGroup {
 public:
  // MPI_Init, once in a process. Unavailable: nobody started this process as one of a group.
  static absl::StatusOr<std::unique_ptr<MpiGroup>> Join();
  // MPI_Finalize, which waits for all ranks, if all is well. A group that was aborted is left as it is: the process
  // must end then, and mpirun or srun ends the others.
  ~MpiGroup();
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(hosts_.size()); }
  int ranks_on_this_host() const { return ranks_on_this_host_; }
  int rank_on_this_host() const { return rank_on_this_host_; }  // among those
  // The lowest rank of each rank's machine.
  const std::vector<int32_t>& first_of_host() const { return first_of_host_; }
  std::string Name(int rank) const;  // "rank 1 on host b"

  // Messages between rank 0 and the others, of any length, in order. `limit_seconds` 0: as long as it takes.
  absl::Status SendToOthers(std::string_view message);                               // from rank 0
  absl::StatusOr<std::string> ReceiveFromFirst(double limit_seconds);                // to the others
  absl::Status SendToFirst(std::string_view message);                                // from the others
  absl::StatusOr<std::vector<std::string>> ReceiveFromOthers(double limit_seconds);  // to rank 0; [0] is empty

  // A part of a tensor that goes to a rank, or comes from one.
  struct Transfer {
    int rank = 0;
    void* data = nullptr;
    size_t num_bytes = 0;
  };
  // All of them at the same time; false if the group ended meanwhile. Ranks make the same calls in the same order.
  bool Exchange(const std::vector<Transfer>& sends, const std::vector<Transfer>& receives);

  enum class Progress : int8_t { kWaiting, kDone, kFailed };
  // For what is waited for elsewhere, such as a GPU, which does not tell who holds it up: asks `how_far` until it says
  // kDone on all ranks, and meanwhile exchanges the answers, so that a rank that has gone or hangs ends the group as in
  // Exchange. Where it says kFailed that is returned, once all ranks are known to be there; the caller aborts, and the
  // others wait for that. kFailed also if the group has ended.
  Progress WaitTogether(const std::function<Progress()>& how_far);

  // The silence of another rank during Exchange that ends the group; 0: any may take as long as it likes.
  void set_silence_limit_seconds(double seconds) { silence_limit_seconds_ = seconds; }

  // The group is at its end, on all ranks that can still be told: every wait returns, and status() is `why`, the first
  // one.
  void Abort(const absl::Status& why);
  absl::Status status() const;

  // Whom this rank waits for just now. Empty: for nobody.
  std::string awaited() const { return awaited_->Names(); }
  // Notes that in `where` from now on. Before other threads use the group.
  void NoteAwaitedIn(std::unique_ptr<AwaitedRanks> where);

 private:
  MpiGroup() = default;

  // Asks `is_done`, which calls MPI, until it says so. `waits_for` says for whom, once they are silent for too long.
  absl::Status WaitUntil(double limit_seconds, const std::function<bool()>& is_done);
  absl::Status SendAll(std::string_view message, const std::vector<int>& to, int tag);
  void LookForAbort() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Fail(const absl::Status& why);

  int rank_ = 0;
  int ranks_on_this_host_ = 1;
  int rank_on_this_host_ = 0;
  std::vector<int32_t> first_of_host_;  // by rank
  std::vector<std::string> hosts_;      // by rank
  MPI_Comm messages_ = MPI_COMM_NULL;
  MPI_Comm tensors_ = MPI_COMM_NULL;
  std::atomic<double> silence_limit_seconds_ = 0;

  std::mutex mu_;  // held for each call of MPI
  mutable std::mutex status_mu_;
  absl::Status status_ ABSL_GUARDED_BY(status_mu_);
  std::atomic<bool> has_failed_ = false;
  std::unique_ptr<AwaitedRanks> awaited_;
};

}  // namespace optserve
