#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace optserve {

// Tells whoever supervises this process, systemd most likely, how it is: sd_notify(3)'s protocol, lines in a datagram
// to the socket that NOTIFY_SOCKET names. Without that variable every call does nothing. Spoken here rather than by
// libsystemd, because it is one sendmsg, and bare roots and containers need not have that library.
//
// A supervisor that does not read is no reason to wait: what it misses is lost. One thread at a time.
class ServiceNotifier {
 public:
  // From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, which it removes from the environment: they are for this
  // process and not for those that it starts. To be called while there is one thread.
  static ServiceNotifier TakeFromEnvironment();

  // `socket`: a path, or "@name" for an abstract one; empty: nobody listens.
  ServiceNotifier(std::string_view socket, std::optional<std::chrono::microseconds> watchdog);
  ~ServiceNotifier();
  ServiceNotifier(ServiceNotifier&& other) noexcept;
  ServiceNotifier& operator=(ServiceNotifier&&) = delete;

  bool is_watched() const { return watchdog_.has_value(); }
  // How often Alive() should be called: half the time after which the supervisor would act. Only if is_watched().
  std::chrono::microseconds alive_period() const { return *watchdog_ / 2; }

  // The start goes on, and may take a minute more from now. To be called every few seconds.
  void Loading(std::string_view model, int percent);
  void Ready(std::string_view model);
  void Reloading();  // until Ready()
  // The end has begun, and may take that long.
  void Stopping(std::chrono::seconds at_most);
  void Alive();

 private:
  void Send(std::string_view lines) const;

  int fd_ = -1;  // connected; -1: nobody listens
  std::optional<std::chrono::microseconds> watchdog_;
};

}  // namespace optserve
