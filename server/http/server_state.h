#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "engine/util/replaceable.h"
#include "server/completion/completion_service.h"
#include "server/http/http_server.h"

namespace optserve {

// How many completions run. Any thread.
class RunningCount {
 public:
  void Add() {
    const std::lock_guard lock(mu_);
    ++count_;
  }
  void Remove() {
    const std::lock_guard lock(mu_);
    if (--count_ == 0) none_.notify_all();
  }
  bool WaitForNone(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mu_);
    return none_.wait_for(lock, timeout, [this] { return count_ == 0; });
  }

 private:
  std::mutex mu_;
  std::condition_variable none_;
  int count_ ABSL_GUARDED_BY(mu_) = 0;
};

// The limits of a request: those that held when it began.
struct LimitsInForce {
  HttpLimits http;
  JsonDecodeOptions decode;
};

// What the connections of one server share. Any thread.
struct ServerState {
  explicit ServerState(HttpServer::Options options_in)
      : options(std::move(options_in)), limits({.http = options.limits, .decode = options.decode}) {}

  const HttpServer::Options options;  // whose limits are those at the start
  Replaceable<LimitsInForce> limits;
  std::atomic<CompletionService*> service = nullptr;  // none: the model is loading
  std::atomic<bool> draining = false;
  std::atomic<int> num_connections = 0;
  std::atomic<int64_t> buffered_body_bytes = 0;
  RunningCount running;
};

}  // namespace optserve
