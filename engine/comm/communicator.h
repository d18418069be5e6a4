#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/common/tensor.h"

namespace optserve {

// A rank's view of its tensor-parallel group. All ranks make the same calls in the same order; each rank's calls come
// from its own thread and are ordered with its backend's ops.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // f32, contiguous; same bits on every rank.
  virtual void AllReduceSum(const TensorView& inout) = 0;
  virtual void AllGather(const TensorView& shard, const TensorView& all) = 0;  // all: [size, ...shard], contiguous

  // What ends a row-parallel product: add.partial summed over ranks, then add, and with a norm (else null) that: the
  // bits of AllReduceSum followed by the backend's AddBiasResidual(Norm). add.partial may be changed.
  virtual void AllReduceAddNorm(const AddBiasResidualParams& add, const LayerNormParams* norm, Backend& backend);

  // AllReduceSum adds up over a binary tree of ranks, ((0 + 1) + (2 + 3)) + ..., which deterministic_tp builds on.
  virtual bool sums_as_tree() const = 0;

  // Why its calls must not come between the backend's BeginCapture and EndCapture. Empty: they may, they run on the
  // device alone.
  virtual std::string WhyNoCapture() const { return size() == 1 ? "" : "the ranks add up in the host's memory"; }
  // Comes before a graph is launched that has such calls in it.
  virtual void NoteLaunch() {}

  // Dead peer or asynchronous error; asked by all ranks whenever they have queued what they will wait for. May wait for
  // the device.
  virtual absl::Status Check() = 0;
  // Check waits for all that is queued, also for what came after the part that is asked about.
  virtual bool check_waits_for_all() const { return false; }

  // The group is at its end: every rank returns from its collective, and from all later ones, at once and without a
  // result, and Check says `why`, the first one. Any thread.
  virtual void Abort(const absl::Status& why) = 0;

  // How many times this rank has come to a point where it waits for the others: who is behind holds the others up. Any
  // thread.
  virtual uint64_t num_arrivals() const = 0;
};

// Ranks as threads of this process that see each other's memory.
// Element r is rank r's; they share state and may outlive each other. With size 1 every call returns at once.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size);

// Ranks as threads of this process, each on a GPU that writes into the others' memory; for rows of up to `max_width`.
// They must end before the backends. FailedPrecondition: they cannot.
absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> MakePeerCommunicators(std::span<Backend* const> ranks,
                                                                                 int64_t max_width);

// Ranks as threads of this process, each on a GPU; NCCL, loaded when this is called, adds up: nccl_communicator.h.
// FailedPrecondition: there is none on this machine, or it cannot join these GPUs.
absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> MakeNcclCommunicators(std::span<Backend* const> ranks);

struct RankGroup {
  std::vector<std::unique_ptr<Communicator>> ranks;
  std::string how;  // for the log: who adds up, and if it is not the fastest, why
};
// The fastest that these backends can use: the host's memory on the CPU; on GPUs each other's memory, else NCCL.
absl::StatusOr<RankGroup> JoinRanks(std::span<Backend* const> ranks, int64_t max_width);

}  // namespace optserve
