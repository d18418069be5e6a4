#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace optserve {

// A few threads and a bounded queue of work for them. Any thread may push.
class WorkQueue {
 public:
  WorkQueue(int num_threads, size_t max_waiting);

  // Does not begin what waits, but says so to each; returns when what runs is done.
  ~WorkQueue();

  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // False, at once, when the queue is full: `work` will not run. `on_dropped` is called in its place when the queue
  // ends before its turn.
  bool Push(std::function<void()> work, std::function<void()> on_dropped = nullptr);

 private:
  struct Entry {
    std::function<void()> work;
    std::function<void()> on_dropped;
  };

  void Run();

  const size_t max_waiting_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Entry> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace optserve
