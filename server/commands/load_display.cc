#include "server/commands/load_display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <utility>

namespace optserve {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBarDelay{100};
constexpr milliseconds kBarPeriod{50};
constexpr milliseconds kLineDelay{1000};
constexpr milliseconds kLinePeriod{5000};
constexpr int kBarWidth = 40;
constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kGB = 1e9;

}  // namespace

LoadDisplay::LoadDisplay(std::string name, std::FILE* out, Clock::time_point now)
    : name_(std::move(name)),
      out_(out),
      is_terminal_(isatty(fileno(out)) == 1),
      next_(now + (is_terminal_ ? kBarDelay : kLineDelay)) {}

void LoadDisplay::Update(int64_t done_bytes, int64_t total_bytes, Clock::time_point now) {
  const std::lock_guard lock(mu_);
  if (finished_ || total_bytes <= 0) return;
  if (!first_) first_ = {.time = now, .bytes = done_bytes};
  if (now < next_) return;
  next_ = now + (is_terminal_ ? kBarPeriod : kLinePeriod);
  const double fraction = static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  const std::string amount =
      fmt::format("{:3.0f} %  {:.0f} of {:.0f} MiB", 100 * fraction, static_cast<double>(done_bytes) / kMiB,
                  static_cast<double>(total_bytes) / kMiB) +
      Speed(done_bytes, total_bytes, now);
  std::string line;
  if (is_terminal_) {
    const int filled = static_cast<int>(fraction * kBarWidth);
    // What is left of a longer line before it is wiped.
    line = fmt::format("\rloading {} [{:#<{}}{:.<{}}] {}\x1b[K", name_, "", filled, "", kBarWidth - filled, amount);
    drawn_ = true;
  } else {
    line = fmt::format("loading {}: {}\n", name_, amount);
  }
  std::fwrite(line.data(), 1, line.size(), out_);
  std::fflush(out_);
}

std::string LoadDisplay::Speed(int64_t done_bytes, int64_t total_bytes, Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - first_->time).count();
  const auto bytes = static_cast<double>(done_bytes - first_->bytes);
  if (seconds <= 0 || bytes <= 0) return "";
  const double per_second = bytes / seconds;
  const double left = std::ceil(static_cast<double>(total_bytes - done_bytes) / per_second);
  return fmt::format("  {:.2f} GB/s, {:.0f} s left", per_second / kGB, left);
}

void LoadDisplay::Finish() {
  const std::lock_guard lock(mu_);
  if (drawn_ && !finished_) std::fputs("\r\x1b[K", out_);
  finished_ = true;
}

}  // namespace optserve
