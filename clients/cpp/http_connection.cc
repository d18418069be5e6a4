#include "clients/cpp/http_connection.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"

// Boost.Asio and Boost.Beast, each operation waited for at once: a connection's io_context runs on the thread that
// calls, for as long as one operation takes. That gives each a deadline, and a way for another thread to end it.

namespace optserve::client {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kMaxHeadBytes = size_t{64} << 10;
constexpr size_t kReadBytes = size_t{16} << 10;

// A body as it comes. Beast's own string_body first makes room for all that Content-Length promises, and a server may
// promise a terabyte.
struct GrowingBody {
  using value_type = std::string;

  class reader {
   public:
    template <bool kIsRequest, class Fields>
    reader(http::header<kIsRequest, Fields>& /*head*/, value_type& body) : body_(body) {}

    void init(const boost::optional<uint64_t>& /*length*/, error_code& error) { error = {}; }

    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& error) {
      error = {};
      size_t size = 0;
      for (const auto buffer : beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
        size += buffer.size();
      }
      return size;
    }

    void finish(error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

class OpensslContext : public TlsContext {
 public:
  asio::ssl::context context{asio::ssl::context::tls_client};
};

// An error of an operation as what the caller of the library should know.
absl::Status StatusOf(const error_code& error, std::string_view doing, const Attempt& attempt) {
  if (attempt.stop.stop_requested()) return absl::CancelledError("the call was cancelled");
  if (error == beast::error::timeout && Clock::now() >= attempt.deadline) {
    return absl::DeadlineExceededError(absl::StrCat("the call's time was over while ", std::string(doing)));
  }
  const std::string text = absl::StrCat(std::string(doing), ": ", error.message());
  if (error.category() == asio::error::get_ssl_category()) return absl::FailedPreconditionError(text);
  if (error == http::error::header_limit) return absl::ResourceExhaustedError(text);
  const bool is_http_error = error.category() == http::make_error_code(http::error::bad_method).category();
  if (is_http_error && error != http::error::end_of_stream && error != http::error::partial_message) {
    return absl::InternalError(absl::StrCat("the server's answer is not HTTP; ", text));
  }
  return absl::UnavailableError(text);
}

// `Stream`: beast::tcp_stream, or that in TLS.
template <typename Stream>
class Connection : public HttpConnection {
 public:
  template <typename... Args>
  explicit Connection(Args&&... args) : stream_(io_, std::forward<Args>(args)...) {}

  absl::Status Connect(const Target& target, const Attempt& attempt) {
    const Attempt limited = {.deadline = std::min(attempt.deadline, Clock::now() + target.connect_timeout),
                             .stop = attempt.stop};
    const std::string place = absl::StrCat(target.address.host, ":", target.address.port);
    Places places;
    error_code error = LookUp(target.address, limited, places);
    if (error) return StatusOf(error, absl::StrCat("looking up ", target.address.host), attempt);
    error = Run(limited, [&](auto done) {
      Lowest().async_connect(places, [done](const error_code& result, const auto&) { done(result); });
    });
    if (error) return StatusOf(error, absl::StrCat("connecting to ", place), attempt);
    Lowest().socket().set_option(asio::ip::tcp::no_delay(true), error);
    return Handshake(target, limited, attempt);
  }

  absl::StatusOr<HttpHead> Send(const HttpRequest& request, const Attempt& attempt) override {
    parser_.emplace();
    parser_->header_limit(kMaxHeadBytes);
    parser_->body_limit(boost::none);  // the caller counts
    got_something_ = false;
    http::request<http::string_body> message = MessageOf(request);
    NoteSent(attempt);
    error_code error = Run(attempt, [&](auto done) {
      http::async_write(stream_, message, [done](const error_code& result, size_t) { done(result); });
    });
    // A server may answer and close before it has read all, to refuse a long body: its answer counts.
    const error_code write_error = error;
    if (error && (error == beast::error::timeout || attempt.stop.stop_requested())) {
      return StatusOf(error, "sending the request", attempt);
    }
    error = Run(attempt, [&](auto done) {
      http::async_read_header(stream_, buffer_, *parser_, [done](const error_code& result, size_t) { done(result); });
    });
    NoteReceived(attempt);
    got_something_ = parser_->got_some() || buffer_.size() > 0;
    if (error && write_error) return StatusOf(write_error, "sending the request", attempt);
    if (error) return StatusOf(error, "waiting for the answer", attempt);
    return HeadOf(parser_->get());
  }

  absl::StatusOr<bool> ReadBody(std::string& out, const Attempt& attempt) override {
    std::string& body = parser_->get().body();
    while (body.empty()) {
      if (parser_->is_done()) return false;
      // What lies there already has waited for us, not we for it.
      error_code ignored;
      const bool must_wait = Lowest().socket().available(ignored) == 0;
      const error_code error = Run(attempt, [&](auto done) {
        http::async_read_some(stream_, buffer_, *parser_, [done](const error_code& result, size_t) { done(result); });
      });
      if (must_wait) NoteReceived(attempt);
      if (error && error != http::error::end_of_stream) return StatusOf(error, "reading the answer", attempt);
      if (error && !parser_->is_done()) return absl::UnavailableError("the connection ended within the answer");
    }
    out += body;
    body.clear();
    return true;
  }

  // The parser's keep_alive, not the message's: that one does not know of bodies that end with their connection.
  bool IsReusable() const override { return parser_ && parser_->is_done() && parser_->keep_alive(); }
  bool GotNothing() const override { return !got_something_; }

 private:
  using Places = asio::ip::tcp::resolver::results_type;

  beast::tcp_stream& Lowest() { return beast::get_lowest_layer(stream_); }

  // Starts an operation with `start(done)` and waits until it calls `done(error)`, the deadline passes or the call is
  // cancelled. After the latter two the stream is closed.
  template <typename Start>
  error_code Run(const Attempt& attempt, Start start) {
    error_code error = asio::error::operation_aborted;
    if (attempt.stop.stop_requested()) return error;
    bool is_done = false;
    io_.restart();
    asio::steady_timer timer(io_, attempt.deadline);
    bool is_late = false;
    timer.async_wait([&](const error_code& result) {
      if (result) return;
      is_late = true;
      Abort();
    });
    start([&](const error_code& result) {
      error = result;
      is_done = true;
      timer.cancel();
    });
    {
      const std::stop_callback stop(attempt.stop, [this] { asio::post(io_, [this] { Abort(); }); });
      io_.run();
    }
    if (!is_done || is_late) return is_late ? error_code(beast::error::timeout) : error;
    return error;
  }

  // A number needs no name server, nor the thread that asks one.
  error_code LookUp(const Address& address, const Attempt& attempt, Places& places) {
    error_code not_a_number;
    const asio::ip::address number = asio::ip::make_address(address.host, not_a_number);
    if (!not_a_number) {
      const auto port = static_cast<uint16_t>(std::stoi(address.port));  // ParseAddress has seen it
      places = Places::create(asio::ip::tcp::endpoint(number, port), address.host, address.port);
      return {};
    }
    asio::ip::tcp::resolver resolver(io_);
    return Run(attempt, [&](auto done) {
      resolver.async_resolve(address.host, address.port, [&places, done](const error_code& result, const auto& found) {
        places = found;
        done(result);
      });
    });
  }

  // Closing is what ends every operation of a socket. (A resolver's ends when the system's lookup does.)
  void Abort() { Lowest().close(); }

  absl::Status Handshake(const Target& target, const Attempt& limited, const Attempt& attempt) {
    if constexpr (std::is_same_v<Stream, beast::ssl_stream<beast::tcp_stream>>) {
      error_code no_address;
      asio::ip::make_address(target.server_name, no_address);
      if (no_address) SSL_set_tlsext_host_name(stream_.native_handle(), target.server_name.c_str());  // SNI
      stream_.set_verify_callback(asio::ssl::host_name_verification(target.server_name));
      const error_code error =
          Run(limited, [&](auto done) { stream_.async_handshake(asio::ssl::stream_base::client, done); });
      if (error) return StatusOf(error, absl::StrCat("TLS with ", target.server_name), attempt);
    }
    return absl::OkStatus();
  }

  static http::request<http::string_body> MessageOf(const HttpRequest& request) {
    http::request<http::string_body> message(http::string_to_verb(request.method), request.target, 11);
    message.set(http::field::host, request.host);
    message.set(http::field::user_agent, "optserve-client/" OPTSERVE_VERSION);
    if (!request.api_key.empty()) message.set(http::field::authorization, "Bearer " + request.api_key);
    if (!request.request_id.empty()) message.set("x-request-id", request.request_id);
    if (request.method == "POST") {
      message.set(http::field::content_type, "application/json");
      message.body() = request.body;
      message.prepare_payload();
    }
    return message;
  }

  static HttpHead HeadOf(const http::response<GrowingBody>& answer) {
    HttpHead head = {.status = static_cast<int>(answer.result_int())};
    head.is_event_stream = answer[http::field::content_type].starts_with("text/event-stream");
    head.request_id = std::string(answer["x-request-id"]);
    head.retry_after = std::string(answer[http::field::retry_after]);
    const auto should_retry = answer["x-should-retry"];
    if (should_retry == "true" || should_retry == "false") head.should_retry = should_retry == "true";
    return head;
  }

  asio::io_context io_{1};
  Stream stream_;
  beast::flat_buffer buffer_{kMaxHeadBytes + kReadBytes};
  std::optional<http::response_parser<GrowingBody>> parser_;
  bool got_something_ = false;
};

template <typename C>
absl::StatusOr<std::unique_ptr<HttpConnection>> Connected(std::unique_ptr<C> connection,
                                                          const HttpConnection::Target& target,
                                                          const Attempt& attempt) {
  if (const absl::Status status = connection->Connect(target, attempt); !status.ok()) return status;
  return connection;
}

}  // namespace

absl::StatusOr<std::shared_ptr<TlsContext>> TlsContext::Create(const TlsOptions& options) {
  auto tls = std::make_shared<OpensslContext>();
  tls->context.set_verify_mode(asio::ssl::verify_peer);
  SSL_CTX_set_min_proto_version(tls->context.native_handle(), TLS1_2_VERSION);
  error_code error;
  if (options.ca_file.empty()) {
    tls->context.set_default_verify_paths(error);
  } else {
    tls->context.load_verify_file(options.ca_file, error);
  }
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read certificates of '", options.ca_file, "': ", error.message()));
  }
  return tls;
}

absl::StatusOr<std::unique_ptr<HttpConnection>> HttpConnection::Open(const Target& target, const Attempt& attempt) {
  if (target.tls == nullptr) return Connected(std::make_unique<Connection<beast::tcp_stream>>(), target, attempt);
  asio::ssl::context& context = static_cast<OpensslContext&>(*target.tls).context;
  return Connected(std::make_unique<Connection<beast::ssl_stream<beast::tcp_stream>>>(context), target, attempt);
}

}  // namespace optserve::client
