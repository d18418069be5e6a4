#include "kernels/collective/peer_link_cuda.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/collective/all_reduce.h"

namespace optserve {
namespace {

// Of the words that the host and the GPUs share each has a line of its own: the abort, then each rank's arrivals.
constexpr int kWordsPerLine = 32;
constexpr size_t kHostBytes = (kMaxPeers + 1) * kWordsPerLine * sizeof(uint32_t);

// The memory of a group, until its last link has gone.
class SharedMemory {
 public:
  explicit SharedMemory(CudaDevice& device) : device_(&device) {}
  ~SharedMemory() {
    for (const auto& [device, arena] : arenas_) {
      device->Activate();
      device->Free(arena);
    }
    device_->Activate();
    if (host_ != nullptr) device_->FreeHost(host_);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  bool AllocateHost() {
    device_->Activate();
    host_ = static_cast<uint32_t*>(device_->AllocateHost(kHostBytes));
    return host_ != nullptr;
  }
  std::byte* AllocateArena(CudaDevice& device, size_t bytes) {
    device.Activate();
    void* arena = device.Allocate(bytes);
    if (arena != nullptr) arenas_.emplace_back(&device, arena);
    return static_cast<std::byte*>(arena);
  }
  uint32_t* abort() const { return host_; }
  uint32_t* arrivals(int rank) const { return host_ + (rank + 1) * kWordsPerLine; }

 private:
  CudaDevice* device_;  // whose host memory it is
  uint32_t* host_ = nullptr;
  std::vector<std::pair<CudaDevice*, void*>> arenas_;
};

class CudaPeerLink final : public PeerLink {
 public:
  CudaPeerLink(const CudaContext& ctx, std::shared_ptr<SharedMemory> memory, const PeerGroup& group,
               AllReduceVariant variant)
      : ctx_(&ctx), memory_(std::move(memory)), group_(group), variant_(variant) {}

  void AllReduce(const TensorView& inout) override { cuda::AllReduce(Begin("AllReduce"), group_, variant_, inout); }
  void AllReduceAddNorm(const AddBiasResidualParams& add, const LayerNormParams* norm) override {
    cuda::AllReduceAddNorm(Begin("AllReduceAddNorm"), group_, variant_, add, norm);
  }
  void AllGather(const TensorView& shard, const TensorView& all) override {
    cuda::AllGather(Begin("AllGather"), group_, shard, all);
  }

  void Abort() override { std::atomic_ref(*memory_->abort()).store(1, std::memory_order_release); }
  uint64_t num_arrivals() const override {
    return std::atomic_ref(*memory_->arrivals(group_.rank)).load(std::memory_order_acquire);
  }

 private:
  const CudaContext& Begin(const char* op) {
    ctx_->device->Activate();
    ctx_->device->BeginOp(op);
    return *ctx_;
  }

  const CudaContext* ctx_;
  std::shared_ptr<SharedMemory> memory_;
  PeerGroup group_;
  AllReduceVariant variant_;
};

}  // namespace

LinkedPeers LinkCudaPeers(const std::vector<const CudaContext*>& ranks, const PeerOptions& options) {
  const int size = static_cast<int>(ranks.size());
  if (size > kMaxPeers)
    return {{}, "a group of " + std::to_string(size) + " GPUs; at most 16 add up over their memory"};
  PeerGroup group{.size = size, .max_blocks = kMaxPeerBlocks};
  for (const CudaContext* from : ranks) {
    group.max_blocks = std::min(group.max_blocks, from->info.sm_count);
    from->device->Activate();
    for (const CudaContext* to : ranks) {
      if (std::string error = from->device->EnablePeer(*to->device); !error.empty()) return {{}, std::move(error)};
    }
  }
  group.region_floats = PeerRegionFloats(size, options.max_width);
  const auto bytes = static_cast<size_t>(PeerArenaBytes(group.region_floats));
  auto memory = std::make_shared<SharedMemory>(*ranks[0]->device);
  if (!memory->AllocateHost()) return {{}, "no memory of the host that GPUs see"};
  group.abort = memory->abort();
  for (int rank = 0; rank < size; ++rank) {
    group.arenas[rank] = memory->AllocateArena(*ranks[rank]->device, bytes);
    if (group.arenas[rank] == nullptr) {
      return {{}, ranks[rank]->info.name + " has no " + std::to_string(bytes) + " bytes left to add up in"};
    }
    // Zeros must be there before a peer's first flag.
    if (std::string error = ranks[rank]->device->Synchronize(); !error.empty()) return {{}, std::move(error)};
  }
  LinkedPeers linked;
  for (group.rank = 0; group.rank < size; ++group.rank) {
    group.arrivals = memory->arrivals(group.rank);
    linked.links.push_back(std::make_unique<CudaPeerLink>(*ranks[group.rank], memory, group, options.variant));
  }
  return linked;
}

}  // namespace optserve
