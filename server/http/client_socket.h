#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "server/http/asio.h"

struct ssl_ctx_st;
struct ssl_st;

namespace optserve {

// A client's socket, in clear or behind TLS; it never blocks. What would is error would_block, and tcp() tells when to
// try again: when it is readable, or writable if wants_output(). On its connection's thread.
//
// Asio's own ssl::stream does not fit: it waits inside its calls, and a connection waits in one place for whatever
// happens first (wakeup.h).
class ClientSocket {
 public:
  // `tls`: what SSL_new is called with; nullptr: in clear.
  ClientSocket(TcpSocket socket, const std::shared_ptr<ssl_ctx_st>& tls);
  ~ClientSocket();
  ClientSocket(ClientSocket&&) = delete;

  TcpSocket& tcp() { return socket_; }
  const TcpSocket& tcp() const { return socket_; }
  bool is_tls() const { return ssl_ != nullptr; }

  enum class Progress {
    kDone,
    kWaits,      // for the client
    kFailed,     // it cannot be gone on with
    kPlainHttp,  // the client speaks HTTP without TLS; from now on so does this
  };
  // The next step of the handshake.
  Progress Handshake();

  // As TcpSocket's read_some and write_some. 0 without an error: the client has closed its side.
  size_t Read(std::vector<char>& buffer, boost::system::error_code& error);
  size_t Write(std::string_view bytes, boost::system::error_code& error);

  // Bytes that have come and are not read, so that tcp() may never become readable for them.
  bool HasBufferedInput() const;

  // The last Handshake or Read must send before it can go on.
  bool wants_output() const { return wants_output_; }

  // Tells the client that nothing more will be sent.
  void ShutdownSend();

 private:
  boost::system::error_code ErrorOf(int result);

  struct SslFree {
    void operator()(ssl_st* ssl) const;
  };
  TcpSocket socket_;
  std::unique_ptr<ssl_st, SslFree> ssl_;
  bool wants_output_ = false;
  bool has_failed_ = false;  // TLS; nothing more can be sent through it
};

}  // namespace optserve
