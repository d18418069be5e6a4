#include "server/http/client_socket.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

namespace optserve {

using boost::system::error_code;

void ClientSocket::SslFree::operator()(ssl_st* ssl) const { SSL_free(ssl); }

ClientSocket::ClientSocket(TcpSocket socket, const std::shared_ptr<ssl_ctx_st>& tls) : socket_(std::move(socket)) {
  if (tls == nullptr) return;
  ssl_.reset(SSL_new(tls.get()));
  has_failed_ = ssl_ == nullptr || SSL_set_fd(ssl_.get(), socket_.native_handle()) != 1;
}

ClientSocket::~ClientSocket() = default;

ClientSocket::Progress ClientSocket::Handshake() {
  if (has_failed_) return Progress::kFailed;
  ERR_clear_error();
  const int result = SSL_accept(ssl_.get());
  if (result == 1) return Progress::kDone;
  const bool is_plain_http = ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST;
  const error_code error = ErrorOf(result);
  if (error == asio::error::would_block) return Progress::kWaits;
  if (!is_plain_http) return Progress::kFailed;
  ssl_.reset();
  has_failed_ = false;
  return Progress::kPlainHttp;
}

// What SSL_get_error says of the last call. Without an error: the client has closed its side.
error_code ClientSocket::ErrorOf(int result) {
  const int number = errno;
  const int kind = SSL_get_error(ssl_.get(), result);
  wants_output_ = kind == SSL_ERROR_WANT_WRITE;
  switch (kind) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return asio::error::would_block;
    case SSL_ERROR_ZERO_RETURN:
      return {};
    case SSL_ERROR_SYSCALL:
      has_failed_ = true;
      return number != 0 ? error_code(number, boost::system::system_category()) : asio::error::connection_reset;
    default:
      has_failed_ = true;
      return asio::error::connection_reset;
  }
}

size_t ClientSocket::Read(std::vector<char>& buffer, error_code& error) {
  if (!is_tls()) return socket_.read_some(asio::buffer(buffer), error);
  if (has_failed_) {
    error = asio::error::connection_reset;
    return 0;
  }
  ERR_clear_error();
  wants_output_ = false;
  const int count = SSL_read(ssl_.get(), buffer.data(),
                             static_cast<int>(std::min<size_t>(buffer.size(), std::numeric_limits<int>::max())));
  if (count > 0) {
    error = {};
    return static_cast<size_t>(count);
  }
  error = ErrorOf(count);
  return 0;
}

size_t ClientSocket::Write(std::string_view bytes, error_code& error) {
  if (!is_tls()) return socket_.write_some(asio::buffer(bytes), error);
  if (has_failed_) {
    error = asio::error::connection_reset;
    return 0;
  }
  ERR_clear_error();
  const bool read_wants_output = wants_output_;
  const int count = SSL_write(ssl_.get(), bytes.data(),
                              static_cast<int>(std::min<size_t>(bytes.size(), std::numeric_limits<int>::max())));
  if (count > 0) {
    error = {};
    return static_cast<size_t>(count);
  }
  error = ErrorOf(count);
  wants_output_ = read_wants_output;
  if (!error) error = asio::error::connection_reset;
  return 0;
}

bool ClientSocket::HasBufferedInput() const { return is_tls() && !has_failed_ && SSL_pending(ssl_.get()) > 0; }

void ClientSocket::ShutdownSend() {
  if (is_tls() && !has_failed_) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
  }
  error_code ignored;
  socket_.shutdown(TcpSocket::shutdown_send, ignored);
}

}  // namespace optserve
