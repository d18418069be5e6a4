#include "server/commands/signal_thread.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace optserve {
namespace {

TEST(SignalThreadTest, EachSignalIsACall) {
  std::atomic<int> interrupts = 0;
  std::atomic<int> terminations = 0;
  {
    SignalThread signals([&](int signal) { ++(signal == SIGINT ? interrupts : terminations); });
    const auto wait_for = [](const std::atomic<int>& count, int value) {
      for (int i = 0; i < 1000 && count != value; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_EQ(count, value);
    };
    kill(getpid(), SIGTERM);
    wait_for(terminations, 1);
    kill(getpid(), SIGTERM);
    wait_for(terminations, 2);
    kill(getpid(), SIGINT);
    wait_for(interrupts, 1);
    kill(getpid(), SIGHUP);  // would end a process that does not expect it
    wait_for(terminations, 3);
  }
  EXPECT_EQ(terminations, 3);  // what ends the thread is no signal to anyone
}

}  // namespace
}  // namespace optserve
