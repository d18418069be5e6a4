#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace optserve {

// A fork-join pool: Run(task) calls task(t) once for every t in [0, num_threads), task(0) on the calling thread, and
// returns when all have returned. Which t computes what is the task's own arithmetic, so results cannot depend on
// timing.
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

  // Task is callable as void(int thread); it is borrowed, not copied, so nothing is allocated.
  template <typename Task>
  void Run(const Task& task) {
    Run([](const void* t, int thread) { (*static_cast<const Task*>(t))(thread); }, &task);
  }

 private:
  using TaskFunction = void (*)(const void* task, int thread);

  void Run(TaskFunction function, const void* task);
  void WorkerMain(int thread);
  // Returns once *word != old.
  void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t old) const;

  const int num_threads_;
  int spins_;  // how often to look before sleeping

  // Written by the owner between two runs, published to the workers by the store to epoch_.
  TaskFunction function_ = nullptr;
  const void* task_ = nullptr;
  bool stop_ = false;

  // On cache lines of their own: one is read by all workers, the other written by all.
  alignas(64) std::atomic<uint32_t> epoch_{0};    // counts runs
  alignas(64) std::atomic<uint32_t> running_{0};  // workers that have not finished the current run

  std::vector<std::thread> workers_;
};

}  // namespace optserve
