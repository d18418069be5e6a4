#include "server/completion/work_queue.h"

#include <utility>

namespace optserve {

WorkQueue::WorkQueue(int num_threads, size_t max_waiting) : max_waiting_(max_waiting) {
  threads_.reserve(num_threads);
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (const Entry& entry : waiting_) {
    if (entry.on_dropped) entry.on_dropped();
  }
}

bool WorkQueue::Push(std::function<void()> work, std::function<void()> on_dropped) {
  {
    const std::lock_guard lock(mu_);
    if (waiting_.size() >= max_waiting_) return false;
    waiting_.push_back({std::move(work), std::move(on_dropped)});
  }
  changed_.notify_one();
  return true;
}

void WorkQueue::Run() {
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(mu_);
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      work = std::move(waiting_.front().work);
      waiting_.pop_front();
    }
    work();
  }
}

}  // namespace optserve
