#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <optional>
#include <string>

namespace optserve {

// Shows on standard error how far a model has loaded, how fast, and how long it will take: a bar that redraws itself on
// a terminal; elsewhere a line now and then, and none for a load that is over before anyone could wonder. Any thread
// may call.
class LoadDisplay {
 public:
  using Clock = std::chrono::steady_clock;

  // `name` is the model's, `out` standard error or a test's file.
  explicit LoadDisplay(std::string name, std::FILE* out = stderr, Clock::time_point now = Clock::now());

  void Update(int64_t done_bytes, int64_t total_bytes, Clock::time_point now = Clock::now());

  // Takes the bar away, so that the next line starts at the left. Update does nothing afterwards.
  void Finish();

 private:
  struct Sample {
    Clock::time_point time;
    int64_t bytes = 0;
  };

  // "  1.84 GB/s, 3 s left", by the mean since the first update; empty before there is one.
  std::string Speed(int64_t done_bytes, int64_t total_bytes, Clock::time_point now) const;

  const std::string name_;
  std::FILE* const out_;
  const bool is_terminal_;
  std::mutex mu_;
  Clock::time_point next_;  // nothing is shown before
  std::optional<Sample> first_;
  bool drawn_ = false;
  bool finished_ = false;
};

}  // namespace optserve
