#include "server/grpc/call_pump.h"

#include <utility>

namespace optserve {

using Clock = std::chrono::steady_clock;

CallPump::CallPump(std::function<void()> on_tick) : on_tick_(std::move(on_tick)) {
  thread_ = std::thread([this] { Run(); });
}

CallPump::~CallPump() { Stop(); }

uint64_t CallPump::Add(std::shared_ptr<PumpedCall> call) {
  std::lock_guard lock(mu_);
  calls_.emplace(++last_id_, Entry{std::move(call)});
  return last_id_;
}

void CallPump::Remove(uint64_t id) {
  std::shared_ptr<PumpedCall> last;  // destroyed after the lock is released: a call's end may take locks of its own
  std::lock_guard lock(mu_);
  const auto found = calls_.find(id);
  if (found == calls_.end()) return;
  last = std::move(found->second.call);
  calls_.erase(found);
  if (calls_.empty()) idle_.notify_all();
}

void CallPump::Post(uint64_t id) {
  std::lock_guard lock(mu_);
  const auto found = calls_.find(id);
  if (found == calls_.end() || found->second.queued) return;
  found->second.queued = true;
  queue_.push_back(id);
  if (queue_.size() == 1) changed_.notify_one();
}

bool CallPump::WaitUntilIdle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mu_);
  return idle_.wait_for(lock, timeout, [this] { return calls_.empty(); });
}

void CallPump::Stop() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void CallPump::Run() {
  Clock::time_point next_tick = Clock::now() + kTick;
  std::unique_lock lock(mu_);
  while (!stopping_) {
    changed_.wait_until(lock, next_tick, [this] { return stopping_ || !queue_.empty(); });
    // One call at a time, so that a Post that comes during its Pump queues it again.
    if (!stopping_ && !queue_.empty()) {
      const auto found = calls_.find(queue_.front());
      queue_.pop_front();
      if (found != calls_.end()) {
        found->second.queued = false;
        std::shared_ptr<PumpedCall> call = found->second.call;
        lock.unlock();
        call->Pump();
        call.reset();
        lock.lock();
      }
    }
    if (stopping_ || Clock::now() < next_tick) continue;
    next_tick = Clock::now() + kTick;
    std::vector<std::shared_ptr<PumpedCall>> calls;
    calls.reserve(calls_.size());
    for (const auto& [id, entry] : calls_) calls.push_back(entry.call);
    lock.unlock();
    for (const std::shared_ptr<PumpedCall>& call : calls) call->Tick(Clock::now());
    calls.clear();
    on_tick_();
    lock.lock();
  }
}

}  // namespace optserve
