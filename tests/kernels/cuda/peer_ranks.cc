#include "tests/kernels/cuda/peer_ranks.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

namespace optserve {
namespace {

// Ends a group that makes no progress, so that a deadlock is a failure and not a program that hangs.
class Watchdog {
 public:
  Watchdog(std::function<uint64_t()> progress, std::function<void()> abort)
      : thread_([this, progress = std::move(progress), abort = std::move(abort)] {
          std::unique_lock lock(mu_);
          uint64_t last = progress();
          while (!done_.wait_for(lock, std::chrono::seconds(60), [&] { return is_done_; })) {
            const uint64_t now = progress();
            if (std::exchange(last, now) != now) continue;
            has_barked_ = true;
            return abort();
          }
        }) {}
  ~Watchdog() { Stop(); }

  // Whether all went well.
  bool Stop() {
    {
      const std::lock_guard lock(mu_);
      is_done_ = true;
    }
    done_.notify_all();
    if (thread_.joinable()) thread_.join();
    return !has_barked_;
  }

 private:
  std::mutex mu_;
  std::condition_variable done_;
  bool is_done_ = false, has_barked_ = false;
  std::thread thread_;
};

#if defined(OPTSERVE_ON_GPU)
constexpr bool kHasArena = true;
#else
constexpr bool kHasArena = false;
#endif

}  // namespace

RankMemory::RankMemory(CudaDevice& device, int64_t bytes) : device_(device), bytes_(bytes) {
  if (!kHasArena) return;
  device_.Activate();
  arena_ = static_cast<std::byte*>(device_.Allocate(static_cast<size_t>(bytes)));
  if (arena_ == nullptr) throw std::runtime_error("no memory on the device");
}

RankMemory::~RankMemory() {
  if (arena_ == nullptr) return;
  device_.Activate();
  device_.Free(arena_);
}

void* RankMemory::Take(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 1);
  if (!kHasArena) return device_.Allocate(static_cast<size_t>(bytes));
  bytes = (bytes + 255) / 256 * 256;
  if (used_ + bytes > bytes_) throw std::runtime_error("more memory than the rank has taken");
  used_ += bytes;
  return arena_ + used_ - bytes;
}

void RankMemory::GiveBack(void* memory) {
  if (!kHasArena) return device_.Free(memory);
  used_ = static_cast<std::byte*>(memory) - arena_;
}

DeviceFloats::DeviceFloats(RankMemory& memory, const std::vector<float>& values)
    : memory_(memory),
      size_(values.size()),
      data_(static_cast<float*>(memory.Take(static_cast<int64_t>(size_ * sizeof(float))))) {
  Set(values);
}

void DeviceFloats::Set(const std::vector<float>& values) {
  memory_.device().CopyIn(data_, values.data(), size_ * sizeof(float));
}

std::vector<float> DeviceFloats::Get() {
  std::vector<float> values(size_);
  memory_.device().CopyOut(values.data(), data_, size_ * sizeof(float));
  if (!memory_.device().Synchronize().empty()) values.clear();
  return values;
}

Ranks::Ranks(int size, const PeerOptions& options, int max_blocks, int64_t memory_bytes) {
  while (num_gpus_ < size && OpenCudaDevice(num_gpus_).device != nullptr) ++num_gpus_;
  if (num_gpus_ == 0) return;
  const int ranks_of_one = (size + num_gpus_ - 1) / num_gpus_;
  std::vector<const CudaContext*> contexts;
  for (int rank = 0; rank < size; ++rank) {
    devices_.push_back(OpenCudaDevice(rank % num_gpus_).device);
    CudaDevice& device = *devices_.back();
    auto& ctx = *contexts_.emplace_back(std::make_unique<CudaContext>());
    ctx.device = &device;
    ctx.info = device.info();
    ctx.info.sm_count = std::clamp(ctx.info.sm_count / ranks_of_one, 1, max_blocks);
    ctx.stream = device.stream();
    contexts.push_back(&ctx);
    memories_.push_back(std::make_unique<RankMemory>(device, memory_bytes));
  }
  LinkedPeers linked = LinkCudaPeers(contexts, options);
  links_ = std::move(linked.links);
  error_ = linked.error;
}

bool Ranks::Run(const std::function<void(int)>& body) {
  Watchdog watchdog([this] { return TotalArrivals(); }, [this] { links_[0]->Abort(); });
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size(); ++rank) {
    threads.emplace_back([&, rank] {
      devices_[static_cast<size_t>(rank)]->Activate();
      body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return watchdog.Stop();
}

uint64_t Ranks::TotalArrivals() const {
  uint64_t total = 0;
  for (const auto& link : links_) total += link->num_arrivals();
  return total;
}

std::vector<float> RandomValues(int rank, int64_t count, int round) {
  std::mt19937 random(static_cast<unsigned>(1000 * round + rank));
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = value(random);
  return values;
}

std::vector<float> TreeSum(int first, int count, int64_t num_values, int round) {
  if (count == 1) return RandomValues(first, num_values, round);
  int left = 1;
  while (left * 2 < count) left *= 2;
  std::vector<float> sum = TreeSum(first, left, num_values, round);
  const std::vector<float> right = TreeSum(first + left, count - left, num_values, round);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += right[i];
  return sum;
}

}  // namespace optserve
