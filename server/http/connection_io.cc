#include "server/http/connection.h"

#include <poll.h>

#include <boost/asio/co_spawn.hpp>
#include <utility>

// A connection's socket: its life from handshake to end, what comes and goes, and its deadlines. connection.cc has what
// is said on it.

namespace optserve {
namespace {

using boost::system::error_code;

constexpr size_t kInputAheadBytes = 16 * 1024;  // read of later requests while one is answered
constexpr size_t kTrimBytes = 64 * 1024;        // of output that was taken and still lies before the rest
constexpr std::chrono::milliseconds kLingerTime{1000};
constexpr size_t kLingerBytes = 4 * 1024 * 1024;

}  // namespace

void Connection::Start() {
  loop_->Add(shared_from_this());
  asio::co_spawn(
      socket_.tcp().get_executor(), [self = shared_from_this()] { return self->Run(); },
      [self = shared_from_this()](const std::exception_ptr&) {
        // Out of memory is all that can be thrown; the connection is the price.
        error_code ignored;
        self->socket_.tcp().close(ignored);
        self->loop_->Remove(*self);
      });
}

bool Connection::IsDue(Clock::time_point now) const {
  if (deadline_ <= now) return true;
  if (input_watched_ || gone_ || in_.empty()) return false;
  // The client has sent more requests than we read ahead, and the end of the stream would be behind them.
  pollfd poll_fd{.fd = const_cast<TcpSocket&>(socket_.tcp()).native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&poll_fd, 1, 0) > 0;
}

void Connection::OnDue(Clock::time_point now) {
  if (deadline_ <= now) {
    ClearDeadline();
    wakeup_.Set(kDeadline);
  } else {
    gone_ = true;
    wakeup_.Set(kInput);
  }
}

void Connection::OnStop() {
  stopped_ = true;
  wakeup_.Set(kEnd);
}

Task<bool> Connection::Handshake() {
  if (!socket_.is_tls()) {
    is_open_ = true;
    co_return true;
  }
  SetDeadline(limits_->http.handshake_time);
  for (;;) {
    const ClientSocket::Progress progress = socket_.Handshake();
    if (progress == ClientSocket::Progress::kDone) break;
    if (progress == ClientSocket::Progress::kPlainHttp) {
      is_open_ = true;
      co_return co_await Refuse(ErrorResponse(400, "this port speaks TLS: use https://"));
    }
    if (progress == ClientSocket::Progress::kFailed) gone_ = true;
    unsigned reason = 0;
    if (!gone_) {
      WatchInput();
      reason = co_await wakeup_.Next();
    }
    if (gone_ || stopped_ || (reason & kDeadline)) {
      gone_ = broken_ = true;
      co_return false;
    }
  }
  ClearDeadline();
  is_open_ = true;
  co_return true;
}

void Connection::WatchInput() {
  if (input_watched_ || gone_ || in_.size() - in_begin_ >= kInputAheadBytes) return;
  if (is_open_ && socket_.HasBufferedInput()) {
    ReadInput();
    wakeup_.Set(kInput);
    return;
  }
  input_watched_ = true;
  socket_.tcp().async_wait(socket_.wants_output() ? TcpSocket::wait_write : TcpSocket::wait_read,
                           [self = shared_from_this()](const error_code& error) {
                             self->input_watched_ = false;
                             if (error) {
                               self->gone_ = true;
                             } else if (self->is_open_) {
                               self->ReadInput();
                             }
                             self->wakeup_.Set(kInput);
                           });
}

void Connection::ReadInput() {
  std::vector<char>& scratch = loop_->scratch();
  error_code error;
  const size_t count = socket_.Read(scratch, error);
  if (error == asio::error::would_block || error == asio::error::interrupted) return;
  if (error || count == 0) {
    gone_ = true;
    return;
  }
  in_.erase(0, std::exchange(in_begin_, 0));
  in_.append(scratch.data(), count);
}

void Connection::WatchOutput() {
  if (output_watched_ || broken_) return;
  output_watched_ = true;
  socket_.tcp().async_wait(TcpSocket::wait_write, [self = shared_from_this()](const error_code& error) {
    self->output_watched_ = false;
    if (error) self->gone_ = self->broken_ = true;
    self->wakeup_.Set(kOutput);
  });
}

// As much as the socket takes at once. The client has stall_time to take stream_bytes, or all there is: a reader of one
// byte a second is as bad as none.
void Connection::WriteOutput() {
  while (output_size() > 0 && !broken_) {
    error_code error;
    const size_t count = socket_.Write(std::string_view(out_).substr(out_begin_), error);
    if (error == asio::error::would_block) break;
    if (error == asio::error::interrupted) continue;
    if (error) {
      gone_ = broken_ = true;
      break;
    }
    out_begin_ += count;
    taken_ += count;
  }
  if (output_size() == 0) {
    out_.clear();
    out_begin_ = 0;
    ClearDeadline();
    return;
  }
  if (out_begin_ >= kTrimBytes && out_begin_ >= out_.size() / 2) {
    out_.erase(0, out_begin_);
    out_begin_ = 0;
  }
  if (deadline_ == Clock::time_point::max() || taken_ >= limits_->http.stream_bytes) {
    SetDeadline(limits_->http.stall_time);
    taken_ = 0;
  }
}

Task<bool> Connection::Flush() {
  for (;;) {
    WriteOutput();
    if (output_size() == 0 || broken_) break;
    WatchOutput();
    const unsigned reason = co_await wakeup_.Next();
    if ((reason & kDeadline) || stopped_) broken_ = true;
  }
  co_return !broken_ && keep_alive_;
}

Task<void> Connection::Close() {
  error_code ignored;
  if (!gone_ && !stopped_) {
    // Closing while the client still sends would reset the connection, and the answer could be lost (RFC 9112, 9.6).
    socket_.ShutdownSend();
    SetDeadline(kLingerTime);
    size_t discarded = 0;
    while (!gone_ && !stopped_ && discarded < kLingerBytes) {
      discarded += in_.size();
      in_.clear();
      in_begin_ = 0;
      WatchInput();
      const unsigned reason = co_await wakeup_.Next();
      if (reason & kDeadline) break;
    }
  }
  ClearDeadline();
  socket_.tcp().close(ignored);
}

void Connection::SetDeadline(std::chrono::milliseconds from_now) {
  wakeup_.Clear(kDeadline);
  deadline_ = Clock::now() + from_now;
}

void Connection::ClearDeadline() {
  wakeup_.Clear(kDeadline);
  deadline_ = Clock::time_point::max();
}

}  // namespace optserve
