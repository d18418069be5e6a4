#include "server/commands/service_notifier.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace optserve {
namespace {

using std::chrono::microseconds;

constexpr microseconds kMoreTimeToLoad = std::chrono::minutes(1);

std::string TakeVariable(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value == nullptr ? "" : value;
  unsetenv(name);
  return text;
}

std::optional<int64_t> Number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value <= 0) return std::nullopt;
  return value;
}

int Connect(std::string_view socket_name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_name.empty() || socket_name.size() >= sizeof(address.sun_path)) return -1;
  std::memcpy(address.sun_path, socket_name.data(), socket_name.size());
  if (socket_name.front() == '@') address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_name.size());
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

}  // namespace

ServiceNotifier ServiceNotifier::TakeFromEnvironment() {
  const std::string socket_name = TakeVariable("NOTIFY_SOCKET");
  const std::optional<int64_t> period = Number(TakeVariable("WATCHDOG_USEC"));
  const std::optional<int64_t> whose = Number(TakeVariable("WATCHDOG_PID"));
  const bool is_ours = period.has_value() && (!whose.has_value() || *whose == getpid());
  return {socket_name, is_ours ? std::optional(microseconds(*period)) : std::nullopt};
}

ServiceNotifier::ServiceNotifier(std::string_view socket, std::optional<microseconds> watchdog)
    : fd_(Connect(socket)), watchdog_(fd_ >= 0 ? watchdog : std::nullopt) {}

ServiceNotifier::~ServiceNotifier() {
  if (fd_ >= 0) close(fd_);
}

ServiceNotifier::ServiceNotifier(ServiceNotifier&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), watchdog_(other.watchdog_) {}

void ServiceNotifier::Loading(std::string_view model, int percent) {
  Send(fmt::format("STATUS=loading {}: {} %\nEXTEND_TIMEOUT_USEC={}", model, percent, kMoreTimeToLoad.count()));
}

void ServiceNotifier::Ready(std::string_view model) { Send(fmt::format("READY=1\nSTATUS=serving {}", model)); }

void ServiceNotifier::Reloading() {
  // The time is for systemd 253 and newer, by which it tells this reload from an earlier one.
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  Send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000));
}

void ServiceNotifier::Stopping(std::chrono::seconds at_most) {
  Send(fmt::format("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}", microseconds(at_most).count()));
}

void ServiceNotifier::Alive() { Send("WATCHDOG=1"); }

void ServiceNotifier::Send(std::string_view lines) const {
  if (fd_ >= 0) (void)send(fd_, lines.data(), lines.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace optserve
