#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace optserve {

// Whole messages over a stream socket, both ways: 4 bytes of length, little-endian, then the bytes. Both ends of the
// border between front end and engine process are one of these.
//
// Threads  Send from any thread: it queues and returns; a thread of the channel writes. Receive from one thread.
// Errors   After the first failure of either direction (the peer has gone), Send drops what it is given.
class FrameChannel {
 public:
  // The largest message either side makes is far smaller; a longer one is not from a peer of ours.
  static constexpr uint32_t kMaxFrameBytes = 256u << 20;

  // Owns `fd`, a connected stream socket.
  explicit FrameChannel(int fd);
  ~FrameChannel();  // drops what is not written yet
  FrameChannel(const FrameChannel&) = delete;
  FrameChannel& operator=(const FrameChannel&) = delete;

  void Send(std::string frame);

  // Waits until at most `max_queued_bytes` wait to be written, which grow when the peer does not read, or the peer has
  // gone. False: it is still more after `timeout`.
  bool WaitForRoom(size_t max_queued_bytes, std::chrono::milliseconds timeout);

  // Waits until everything that was sent is written, or the peer has gone.
  void Flush();

  // The next message. Unavailable: the peer has closed its end, or reading failed.
  absl::StatusOr<std::string> Receive();

  // Ends both directions: a Receive that waits returns, and so does the peer's.
  void Shutdown();

  // Shutdown, and the channel's thread has ended. For one thread, the one that would destroy the channel; others may
  // still Send, which then drops.
  void Close();

 private:
  void WriteLoop();
  absl::Status ReadAll(char* data, size_t size);

  const int fd_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::string> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;  // of the frame being written too
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::thread writer_;
};

}  // namespace optserve
