#include "server/http/worker_pool.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

namespace optserve {

WorkerPool::WorkerPool(int num_threads) {
  for (int i = 0; i < std::max(num_threads, 1); ++i) threads_.emplace_back([this] { Loop(); });
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mu_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Run(std::function<void()> job) {
  {
    const std::lock_guard lock(mu_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void WorkerPool::Loop() {
  pthread_setname_np(pthread_self(), "http-worker");
  std::unique_lock lock(mu_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace optserve
