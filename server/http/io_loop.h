#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/http/asio.h"

namespace optserve {

class Connection;

// "There is something new for you", from any thread to a connection. Kept by both sides, because each may end first.
struct Notice {
  std::atomic<bool> queued = false;
  Connection* connection = nullptr;  // the loop's thread only; none: it is not interested any more
};

// One I/O thread and its connections. All of a connection happens on the one thread.
class IoLoop : public std::enable_shared_from_this<IoLoop> {
 public:
  explicit IoLoop(std::chrono::milliseconds tick);

  asio::io_context& context() { return context_; }

  void Start();  // begins the thread

  // Any thread: has every connection end, and the thread with the last of them.
  void Stop();
  void Join();

  // Any thread, cheaply: connection->OnNotice() on the loop's thread, soon. The notices of many connections that come
  // close together, as those of one engine step do, cost one wake-up of the thread.
  void Notify(std::shared_ptr<Notice> notice);

  // The loop's thread, by Connection.
  void Add(std::shared_ptr<Connection> connection);
  void Remove(Connection& connection);

  // Any thread: how long the loop's thread has not come to look at its connections. It does so every tick; much longer
  // than that means that it hangs.
  std::chrono::milliseconds Silence() const;

  // A buffer for one read, of whoever reads at the moment.
  std::vector<char>& scratch() { return scratch_; }

  // The time for Date fields, "Sun, 06 Nov 1994 08:49:37 GMT".
  const std::string& HttpDate();

 private:
  void DeliverNotices();
  void Tick();  // looks for connections whose time is up
  void EndIfStopped();

  asio::io_context context_{1};
  std::optional<asio::executor_work_guard<IoExecutor>> work_;
  IoTimer timer_;
  const std::chrono::milliseconds tick_;
  std::vector<std::shared_ptr<Connection>> connections_;
  std::vector<char> scratch_;
  std::atomic<Clock::time_point> last_tick_{Clock::now()};
  bool stopping_ = false;
  std::string date_;
  int64_t date_second_ = 0;
  std::thread thread_;

  std::mutex mu_;
  std::vector<std::shared_ptr<Notice>> notices_ ABSL_GUARDED_BY(mu_);
};

}  // namespace optserve
