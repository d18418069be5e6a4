#include "server/commands/service_notifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace optserve {
namespace {

using std::chrono::microseconds;
using testing::MatchesRegex;
using testing::StartsWith;

// A supervisor's end of the socket: an abstract one, so that nothing stays behind.
class FakeSupervisor {
 public:
  FakeSupervisor() : name_("@optserve-notifier-test-" + std::to_string(getpid())) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name_.data() + 1, name_.size() - 1);
    fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size());
    EXPECT_EQ(bind(fd_, reinterpret_cast<const sockaddr*>(&address), length), 0);
  }
  ~FakeSupervisor() { close(fd_); }

  const std::string& name() const { return name_; }

  // Empty if nothing has come.
  std::string Read() {
    char bytes[4096];
    const ssize_t size = recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);
    return size > 0 ? std::string(bytes, static_cast<size_t>(size)) : "";
  }

 private:
  std::string name_;
  int fd_ = -1;
};

TEST(ServiceNotifierTest, SaysEachStateInTheProtocolsWords) {
  FakeSupervisor supervisor;
  ServiceNotifier notifier(supervisor.name(), microseconds(30'000'000));
  EXPECT_TRUE(notifier.is_watched());
  EXPECT_EQ(notifier.alive_period(), microseconds(15'000'000));
  notifier.Loading("opt-175b", 42);
  EXPECT_EQ(supervisor.Read(), "STATUS=loading opt-175b: 42 %\nEXTEND_TIMEOUT_USEC=60000000");
  notifier.Ready("opt-175b");
  EXPECT_EQ(supervisor.Read(), "READY=1\nSTATUS=serving opt-175b");
  notifier.Alive();
  EXPECT_EQ(supervisor.Read(), "WATCHDOG=1");
  notifier.Reloading();
  EXPECT_THAT(supervisor.Read(), MatchesRegex("RELOADING=1\nMONOTONIC_USEC=[0-9]+"));
  notifier.Stopping(std::chrono::seconds(45));
  EXPECT_EQ(supervisor.Read(), "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=45000000");
}

TEST(ServiceNotifierTest, TakesItsVariablesAndLeavesNoneToChildren) {
  FakeSupervisor supervisor;
  setenv("NOTIFY_SOCKET", supervisor.name().c_str(), 1);
  setenv("WATCHDOG_USEC", "2000000", 1);
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  ServiceNotifier notifier = ServiceNotifier::TakeFromEnvironment();
  EXPECT_EQ(notifier.alive_period(), microseconds(1'000'000));
  notifier.Ready("m");
  EXPECT_THAT(supervisor.Read(), StartsWith("READY=1\n"));
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) EXPECT_EQ(std::getenv(name), nullptr);
}

TEST(ServiceNotifierTest, AWatchdogOfAnotherProcessIsNotOurs) {
  FakeSupervisor supervisor;
  setenv("NOTIFY_SOCKET", supervisor.name().c_str(), 1);
  setenv("WATCHDOG_USEC", "2000000", 1);
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_FALSE(ServiceNotifier::TakeFromEnvironment().is_watched());
}

TEST(ServiceNotifierTest, WithoutAListenerNothingHappens) {
  const std::string too_long = "/" + std::string(200, 'x');
  for (const std::string& socket_name : {std::string(), std::string("/nowhere/socket"), too_long}) {
    ServiceNotifier notifier(socket_name, microseconds(1'000'000));
    EXPECT_FALSE(notifier.is_watched());
    notifier.Ready("m");
  }
}

TEST(ServiceNotifierTest, ASupervisorThatDoesNotReadHoldsUpNobody) {
  FakeSupervisor supervisor;
  ServiceNotifier notifier(supervisor.name(), std::nullopt);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100'000; ++i) notifier.Alive();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(supervisor.Read(), "WATCHDOG=1");
}

}  // namespace
}  // namespace optserve
