#include "engine/util/frame_channel.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>

#include "engine/util/status.h"

namespace optserve {
namespace {

using Header = std::array<char, 4>;

constexpr size_t kFirstRead = 64 << 10;  // of a frame, in bytes; each further one doubles it

std::string ErrnoText() { return std::generic_category().message(errno); }

Header EncodeLength(uint32_t length) {
  Header header;
  for (size_t i = 0; i < header.size(); ++i) header[i] = static_cast<char>(length >> (8 * i));
  return header;
}

uint32_t DecodeLength(const Header& header) {
  uint32_t length = 0;
  for (size_t i = 0; i < header.size(); ++i) length |= uint32_t{static_cast<uint8_t>(header[i])} << (8 * i);
  return length;
}

// MSG_NOSIGNAL: a peer that has gone is an error of this call, not a SIGPIPE for the process.
bool WriteAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t written = send(fd, data, size, MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    size -= static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

FrameChannel::FrameChannel(int fd) : fd_(fd), writer_([this] { WriteLoop(); }) {}

FrameChannel::~FrameChannel() {
  Close();
  close(fd_);
}

void FrameChannel::Send(std::string frame) {
  const std::lock_guard lock(mu_);
  if (closed_) return;
  const Header header = EncodeLength(static_cast<uint32_t>(frame.size()));
  frame.insert(0, header.data(), header.size());
  queued_bytes_ += frame.size();
  queue_.push_back(std::move(frame));
  changed_.notify_all();
}

bool FrameChannel::WaitForRoom(size_t max_queued_bytes, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(
      lock, timeout, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return queued_bytes_ <= max_queued_bytes || closed_; });
}

void FrameChannel::Flush() {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return queued_bytes_ == 0 || closed_; });
}

void FrameChannel::WriteLoop() {
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !queue_.empty() || closed_; });
    if (closed_) return;
    const std::string frame = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    const bool written = WriteAll(fd_, frame.data(), frame.size());
    lock.lock();
    queued_bytes_ -= frame.size();
    if (!written) {
      closed_ = true;
      // Half a frame is on its way, and whoever waits for an answer to it would wait in vain. What the peer has sent
      // can still be received.
      shutdown(fd_, SHUT_RDWR);
    }
    changed_.notify_all();
  }
}

absl::Status FrameChannel::ReadAll(char* data, size_t size) {
  while (size > 0) {
    const ssize_t got = recv(fd_, data, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unavailable("reading from the other process failed: {}", ErrnoText());
    if (got == 0) return Unavailable("the other process has closed the connection");
    data += got;
    size -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FrameChannel::Receive() {
  Header header;
  if (absl::Status status = ReadAll(header.data(), header.size()); !status.ok()) return status;
  const uint32_t length = DecodeLength(header);
  if (length > kMaxFrameBytes) return Unavailable("the other process sent a message of {} bytes", length);
  // A length alone takes no memory: the frame grows by what has come.
  std::string frame;
  while (frame.size() < length) {
    const size_t have = frame.size();
    frame.resize(std::min<size_t>(length, have + std::max<size_t>(have, kFirstRead)));
    if (absl::Status status = ReadAll(frame.data() + have, frame.size() - have); !status.ok()) return status;
  }
  return frame;
}

void FrameChannel::Shutdown() {
  {
    const std::lock_guard lock(mu_);
    closed_ = true;
    changed_.notify_all();
  }
  shutdown(fd_, SHUT_RDWR);
}

void FrameChannel::Close() {
  Shutdown();
  if (writer_.joinable()) writer_.join();
}

}  // namespace optserve
