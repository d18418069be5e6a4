#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"

namespace optserve {

// A few threads for what would hold up an I/O thread: long bodies and long answers. A connection has at most one job at
// a time, so the queue is as long as there are connections at most. Any thread.
class WorkerPool {
 public:
  explicit WorkerPool(int num_threads);
  ~WorkerPool();  // does what is queued, then ends

  void Run(std::function<void()> job);

 private:
  void Loop();

  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mu_);
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace optserve
