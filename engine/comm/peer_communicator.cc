#include <utility>

#include "engine/comm/communicator.h"
#include "engine/comm/group_failure.h"

namespace optserve {
namespace {

class PeerCommunicator final : public Communicator {
 public:
  PeerCommunicator(int rank, int size, std::unique_ptr<PeerLink> link, std::shared_ptr<GroupFailure> failure)
      : rank_(rank), size_(size), link_(std::move(link)), failure_(std::move(failure)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool sums_as_tree() const override { return true; }
  std::string WhyNoCapture() const override { return ""; }
  uint64_t num_arrivals() const override { return link_->num_arrivals(); }
  absl::Status Check() override { return failure_->Get(); }

  void AllReduceSum(const TensorView& inout) override { link_->AllReduce(inout); }
  void AllGather(const TensorView& shard, const TensorView& all) override { link_->AllGather(shard, all); }
  void AllReduceAddNorm(const AddBiasResidualParams& add, const LayerNormParams* norm, Backend&) override {
    link_->AllReduceAddNorm(add, norm);
  }

  void Abort(const absl::Status& why) override {
    if (failure_->Set(why)) link_->Abort();
  }

 private:
  const int rank_, size_;
  std::unique_ptr<PeerLink> link_;
  std::shared_ptr<GroupFailure> failure_;
};

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> MakePeerCommunicators(std::span<Backend* const> ranks,
                                                                                 int64_t max_width) {
  auto links = ranks[0]->LinkPeers(ranks, {.max_width = max_width});
  if (!links.ok()) return links.status();
  const auto failure = std::make_shared<GroupFailure>();
  std::vector<std::unique_ptr<Communicator>> comms;
  for (size_t rank = 0; rank < links->size(); ++rank) {
    comms.push_back(std::make_unique<PeerCommunicator>(static_cast<int>(rank), static_cast<int>(links->size()),
                                                       std::move((*links)[rank]), failure));
  }
  return comms;
}

}  // namespace optserve
