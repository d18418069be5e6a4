#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

namespace optserve {

// A call in progress, as the pump sees it.
class PumpedCall {
 public:
  virtual ~PumpedCall() = default;

  // There may be something new to send. On the pump's thread.
  virtual void Pump() = 0;

  // Every CallPump::kTick, on the pump's thread: to notice that the client has stopped reading.
  virtual void Tick(std::chrono::steady_clock::time_point now) = 0;
};

// The thread between the engine's and gRPC's: the engine says "something new" and goes on at once; text and messages
// are made, and writes begun, over here. Owns the calls in progress.
//
// Threads  any, also from within Pump and Tick; Run's functions are called on the pump's own.
class CallPump {
 public:
  static constexpr std::chrono::milliseconds kTick{250};

  // `on_tick` is called every kTick, after the calls' Tick.
  explicit CallPump(std::function<void()> on_tick);
  ~CallPump();

  CallPump(const CallPump&) = delete;
  CallPump& operator=(const CallPump&) = delete;

  // Keeps the call until Remove. The result names it.
  uint64_t Add(std::shared_ptr<PumpedCall> call);
  void Remove(uint64_t id);

  // Has the call's Pump called soon; once for any number of posts before that. Ids that are gone are ignored, so that
  // an engine may be late. Takes one short lock.
  void Post(uint64_t id);

  // Waits until there is no call, at most that long; true if so.
  bool WaitUntilIdle(std::chrono::milliseconds timeout);

  // Ends the thread; posts have no effect from then on. Idempotent, not from the pump's thread.
  void Stop();

 private:
  struct Entry {
    std::shared_ptr<PumpedCall> call;
    bool queued = false;
  };

  void Run();

  const std::function<void()> on_tick_;
  std::mutex mu_;
  std::condition_variable changed_;  // of queue_ or stopping_
  std::condition_variable idle_;
  std::unordered_map<uint64_t, Entry> calls_;
  std::deque<uint64_t> queue_;
  uint64_t last_id_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace optserve
