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
  stop_.store(true, std::memory_order_relaxed);
  runs_.fetch_add(1, std::memory_order_release);
  runs_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Start(uint32_t num_units, TaskFunction function, const void* task) {
  function_ = function;
  task_ = task;
  const uint32_t run = runs_.load(std::memory_order_relaxed) + 1;
  unfinished_.store(num_units == kOnePerThread ? num_threads_ : num_units, std::memory_order_relaxed);
  unclaimed_.store((uint64_t{run} << 32) | num_units, std::memory_order_release);
  runs_.store(run, std::memory_order_release);
  runs_.notify_all();  // no system call unless a worker sleeps
  Work(0, run - 1);
  for (uint32_t left = unfinished_.load(std::memory_order_acquire); left != 0;
       left = unfinished_.load(std::memory_order_acquire)) {
    WaitWhileEqual(unfinished_, left);
  }
}

uint32_t ThreadPool::Work(int thread, uint32_t done) {
  const auto finish = [this] {
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
  };
  for (uint64_t unclaimed = unclaimed_.load(std::memory_order_acquire);;) {
    const uint32_t run = static_cast<uint32_t>(unclaimed >> 32);
    const uint32_t units = static_cast<uint32_t>(unclaimed);
    if (run == done || units == 0) return run;
    if (units == kOnePerThread) {
      function_(task_, thread, thread);
      finish();
      return run;
    }
    // The run's number above the count makes a claim fail that was meant for an earlier run.
    if (unclaimed_.compare_exchange_weak(unclaimed, unclaimed - 1, std::memory_order_acquire)) {
      function_(task_, static_cast<int>(units) - 1, thread);
      finish();
      unclaimed = unclaimed_.load(std::memory_order_acquire);
    }
  }
}

void ThreadPool::WorkerMain(int thread) {
  for (uint32_t done = 0; !stop_.load(std::memory_order_relaxed);) {
    const uint32_t started = runs_.load(std::memory_order_acquire);  // before the look: no run is slept through
    done = Work(thread, done);
    WaitWhileEqual(runs_, started);
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
