#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

namespace optserve {

// Shows on standard error how far a model has loaded: a bar that redraws itself on a terminal; elsewhere a line now and
// then, and none for a load that is over before anyone could wonder. Any thread may call.
class LoadDisplay {
 public:
  using Clock = std::chrono::steady_clock;

  // `name` is the model's, `out` standard error or a test's file.
  explicit LoadDisplay(std::string name, std::FILE* out = stderr, Clock::time_point now = Clock::now());

  void Update(int64_t done_bytes, int64_t total_bytes, Clock::time_point now = Clock::now());

  // Takes the bar away, so that the next line starts at the left. Update does nothing afterwards.
  void Finish();

 private:
  const std::string name_;
  std::FILE* const out_;
  const bool is_terminal_;
  std::mutex mu_;
  Clock::time_point next_;  // nothing is shown before
  bool drawn_ = false;
  bool finished_ = false;
};

}  // namespace optserve
