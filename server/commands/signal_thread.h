#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace optserve {

// SIGHUP, SIGINT and SIGTERM as calls on an ordinary thread. To be made before any other thread, because it blocks them
// in the thread that makes it, and threads inherit that. One at a time in a process.
class SignalThread {
 public:
  explicit SignalThread(std::function<void(int signal)> on_signal);
  ~SignalThread();  // the signals stay blocked: the process is about to end
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace optserve
