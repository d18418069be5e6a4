#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/request.h"

namespace optserve {

// Keeps what it gets, and how many calls it came in.
class Recorder : public TokenSink {
 public:
  void OnEvents(std::vector<TokenEvent> events) override {
    const std::lock_guard lock(mu_);
    ++calls_;
    for (TokenEvent& event : events) {
      if (event.finish != FinishReason::kNone) ++num_finished_;
      events_.push_back(std::move(event));
    }
    changed_.notify_all();
  }

  // False after ten seconds, in which a fake engine does anything that it will ever do.
  bool WaitForFinished(int num_answers) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return num_finished_ >= num_answers; });
  }
  bool WaitForEvents(size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return events_.size() >= count; });
  }

  std::vector<TokenEvent> events() const {
    const std::lock_guard lock(mu_);
    return events_;
  }
  std::vector<int32_t> tokens(RequestId request, int32_t choice = 0) const {
    std::vector<int32_t> tokens;
    for (const TokenEvent& event : events()) {
      if (event.request == request && event.choice == choice && event.token) tokens.push_back(event.token->id);
    }
    return tokens;
  }
  FinishReason finish(RequestId request, int32_t choice = 0) const {
    for (const TokenEvent& event : events()) {
      if (event.request == request && event.choice == choice && event.finish != FinishReason::kNone) {
        return event.finish;
      }
    }
    return FinishReason::kNone;
  }
  int calls() const {
    const std::lock_guard lock(mu_);
    return calls_;
  }

 private:
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::vector<TokenEvent> events_;
  int num_finished_ = 0;
  int calls_ = 0;
};

}  // namespace optserve
