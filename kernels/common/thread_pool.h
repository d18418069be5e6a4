#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace optserve {

// A fork-join pool: Run(n, task) calls task(unit, thread) once for every unit in [0, n), RunOnAll(task) calls
// task(thread) once on every thread, and both return when all calls have. The calling thread, number 0, takes part.
//
// Run's units are claimed, not assigned: a thread that the operating system holds back takes none, and the others do
// its share, so a busy machine slows a step down in proportion instead of making it wait for the next time slice.
// `thread` says whose scratch memory to use; results must not depend on it. RunOnAll is for what belongs to a thread,
// such as a rank.
//
// One thread owns a pool and calls Run(), never from inside a task. Pools do not know of each other: each
// tensor-parallel rank has its own. A worker that finds nothing to do spins for some tens of microseconds, about the
// gap between two ops of a step, then sleeps in the kernel; the same holds for the caller that waits for stragglers.
class ThreadPool {
 public:
  // num_threads >= 1 counts the calling thread. More threads than the machine has CPUs never spin.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Task is callable as void(int unit, int thread); it is borrowed, not copied, so nothing is allocated.
  template <typename Task>
  void Run(int num_units, const Task& task) {
    if (num_units <= 1 || num_threads_ == 1) {
      for (int unit = 0; unit < num_units; ++unit) task(unit, 0);
      return;
    }
    Start(
        num_units, [](const void* t, int unit, int thread) { (*static_cast<const Task*>(t))(unit, thread); }, &task);
  }

  // Task is callable as void(int thread).
  template <typename Task>
  void RunOnAll(const Task& task) {
    if (num_threads_ == 1) return task(0);
    Start(
        kOnePerThread, [](const void* t, int, int thread) { (*static_cast<const Task*>(t))(thread); }, &task);
  }

 private:
  using TaskFunction = void (*)(const void* task, int unit, int thread);

  static constexpr uint32_t kOnePerThread = 0xffffffff;  // in place of a number of units

  void Start(uint32_t num_units, TaskFunction function, const void* task);
  void WorkerMain(int thread);
  // Does this thread's share of the current run, if it is later than `done`. Returns its number.
  uint32_t Work(int thread, uint32_t done);
  // Returns once *word != old.
  void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t old) const;

  const int num_threads_;
  const int spins_;  // how often to look before sleeping

  // Written by the owner between two runs and published by the store to unclaimed_. Whoever has claimed a unit may read
  // them: the run cannot end before that unit is done.
  TaskFunction function_ = nullptr;
  const void* task_ = nullptr;

  // On cache lines of their own, because all threads write to them.
  alignas(64) std::atomic<uint32_t> runs_{0};       // started so far; workers sleep on it
  alignas(64) std::atomic<uint64_t> unclaimed_{0};  // the run's number, 32 bits, then units not yet claimed
  alignas(64) std::atomic<uint32_t> unfinished_{0};
  std::atomic<bool> stop_{false};

  std::vector<std::thread> workers_;
};

}  // namespace optserve
