#include "kernels/common/thread_pool.h"

#include "kernels/common/check.h"

namespace optserve {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// About 50 us on a 4 GHz Zen 5, where a pause takes some 40 cycles.
constexpr int kSpins = 5000;

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(num_threads),
      spins_(num_threads <= static_cast<int>(std::thread::hardware_concurrency()) ? kSpins : 0) {
  OPTSERVE_CHECK(num_threads >= 1) << "num_threads is " << num_threads;
  workers_.reserve(num_threads - 1);
  for (int t = 1; t < num_threads; ++t) workers_.emplace_back([this, t] { WorkerMain(t); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(TaskFunction function, const void* task) {
  if (num_threads_ == 1) return function(task, 0);
  function_ = function;
  task_ = task;
  running_.store(num_threads_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();  // no system call unless a worker sleeps
  function(task, 0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    WaitWhileEqual(running_, left);
  }
}

void ThreadPool::WorkerMain(int thread) {
  // A run cannot start before the last one ended, so a worker never misses an epoch.
  for (uint32_t seen = 0;; ++seen) {
    WaitWhileEqual(epoch_, seen);
    if (stop_) return;
    function_(task_, thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadPool::WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t old) const {
  for (int i = 0; i < spins_; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  word.wait(old, std::memory_order_acquire);
}

}  // namespace optserve
