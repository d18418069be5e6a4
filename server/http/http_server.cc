#include "server/http/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <utility>
#include <vector>

#include "server/http/connection.h"
#include "server/http/io_loop.h"
#include "server/http/response.h"
#include "server/http/server_state.h"
#include "server/http/worker_pool.h"

namespace optserve {
namespace {

using boost::system::error_code;

constexpr int kBacklog = 1024;
constexpr std::chrono::milliseconds kRetryAcceptAfter{20};

// How often deadlines are looked at: often enough for the shortest of them.
std::chrono::milliseconds TickOf(const HttpLimits& limits) {
  const auto shortest =
      std::min({limits.handshake_time, limits.header_time, limits.body_time, limits.idle_time, limits.stall_time});
  return std::clamp(shortest / 8, std::chrono::milliseconds(5), std::chrono::milliseconds(250));
}

std::string HostAndPort(std::string_view host, int port) {
  return host.find(':') == host.npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

absl::Status BindError(std::string_view where, const error_code& error) {
  if (error == asio::error::address_in_use) {
    return absl::FailedPreconditionError(fmt::format(
        "http: {} is in use by another program: stop it, or choose another --port (0: any free one)", where));
  }
  if (error == asio::error::access_denied) {
    return absl::PermissionDeniedError(fmt::format(
        "http: no permission to listen on {}: ports below 1024 need privileges; choose another --port", where));
  }
  return absl::InvalidArgumentError(
      fmt::format("http: cannot listen on {}: {}; --host must be an address of this machine, such as 127.0.0.1, or "
                  "0.0.0.0 for all of them",
                  where, error.message()));
}

}  // namespace

class HttpServer::Impl {
 public:
  explicit Impl(Options options)
      : state_(std::move(options)),
        workers_(state_.options.worker_threads),
        loops_(MakeLoops(state_.options)),
        acceptor_(loops_[0]->context()),
        accept_timer_(loops_[0]->context().get_executor()) {}

  ~Impl() {
    Stop();
    if (spare_fd_ >= 0) ::close(spare_fd_);
  }

  absl::Status Listen() {
    const Options& options = state_.options;
    error_code error;
    asio::ip::basic_resolver<asio::ip::tcp, IoExecutor> resolver(loops_[0]->context());
    const auto found = resolver.resolve(options.host, fmt::format("{}", options.port), error);
    if (error || found.empty()) {
      return absl::InvalidArgumentError(
          fmt::format("http: --host is '{}', which is neither an address nor a name that is known here ({}); give an "
                      "address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
                      options.host, error ? error.message() : "no address"));
    }
    const asio::ip::tcp::endpoint endpoint = *found.begin();
    const std::string where = HostAndPort(options.host, options.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(TcpAcceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(kBacklog, error);
    if (!error) acceptor_.non_blocking(true, error);
    // Asio would take a connection that was aborted in the queue for an empty queue, and the next one behind it would
    // wait until somebody else comes.
    if (!error) acceptor_.set_option(asio::socket_base::enable_connection_aborted(true), error);
    if (!error) port_ = acceptor_.local_endpoint(error).port();
    if (error) return BindError(where, error);
    url_ = (options.tls ? "https://" : "http://") + HostAndPort(options.host, port_);
    spare_fd_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    return absl::OkStatus();
  }

  void Run() {
    asio::co_spawn(loops_[0]->context(), AcceptAll(),
                   [this](const std::exception_ptr&) { accepting_ended_.set_value(); });
    for (const std::shared_ptr<IoLoop>& loop : loops_) loop->Start();
    started_ = true;
  }

  void Stop() {
    if (!std::exchange(started_, false)) return;
    state_.draining = true;
    asio::post(loops_[0]->context(), [this] {
      error_code ignored;
      stopping_ = true;
      acceptor_.close(ignored);
      accept_timer_.cancel();
    });
    accepting_ended_.get_future().wait();  // after it no loop gets another connection
    for (const std::shared_ptr<IoLoop>& loop : loops_) loop->Stop();
    for (const std::shared_ptr<IoLoop>& loop : loops_) loop->Join();
  }

  std::chrono::milliseconds Silence() const {
    std::chrono::milliseconds longest{0};
    for (const std::shared_ptr<IoLoop>& loop : loops_) longest = std::max(longest, loop->Silence());
    return longest;
  }

  ServerState& state() { return state_; }
  uint16_t port() const { return port_; }
  const std::string& url() const { return url_; }

 private:
  static std::vector<std::shared_ptr<IoLoop>> MakeLoops(const Options& options) {
    std::vector<std::shared_ptr<IoLoop>> loops;
    for (int i = 0; i < std::max(options.io_threads, 1); ++i) {
      loops.push_back(std::make_shared<IoLoop>(TickOf(options.limits)));
    }
    return loops;
  }

  Task<void> AcceptAll() {
    for (size_t next = 0; !stopping_; next = (next + 1) % loops_.size()) {
      const std::shared_ptr<IoLoop>& loop = loops_[next];
      // Not async_accept, which waits for the next one to come: this looks again at who is there already.
      co_await acceptor_.async_wait(TcpAcceptor::wait_read, asio::as_tuple(UseAwaitable{}));
      if (stopping_) break;
      error_code error;
      TcpSocket socket = acceptor_.accept(loop->context(), error);
      if (!error) {
        Adopt(loop, std::move(socket));
      } else if (error == asio::error::no_descriptors ||
                 error == error_code(ENFILE, asio::error::get_system_category())) {
        ShedOne();
        co_await Pause();
      } else if (error != asio::error::connection_aborted && error != asio::error::would_block) {
        co_await Pause();  // out of kernel memory, most likely
      }
    }
  }

  Task<void> Pause() {
    accept_timer_.expires_after(kRetryAcceptAfter);
    co_await accept_timer_.async_wait(asio::as_tuple(UseAwaitable{}));
  }

  // No descriptors are left. Those who wait at the door would wait for nothing: with the descriptor that was kept for
  // this, let one in and close it, so that it knows.
  void ShedOne() {
    if (spare_fd_ < 0) return;
    ::close(spare_fd_);
    const int fd = ::accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) ::close(fd);
    spare_fd_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }

  void Adopt(const std::shared_ptr<IoLoop>& loop, TcpSocket socket) {
    const std::shared_ptr<const LimitsInForce> limits = state_.limits.Get();
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.set_option(asio::ip::tcp::no_delay(true), ignored);
    socket.set_option(TcpSocket::send_buffer_size(static_cast<int>(limits->http.send_buffer_bytes)), ignored);
    if (++state_.num_connections > limits->http.connections) {
      --state_.num_connections;
      if (state_.options.tls) return;  // there is no saying why without a handshake
      HttpResponse response =
          ErrorResponse(absl::UnavailableError("the server has as many connections as it takes; try again"));
      const std::string bytes = SerializeResponse(
          response, {.request_id = "none", .date = loops_[0]->HttpDate(), .keep_alive = false}, /*with_body=*/true);
      socket.write_some(asio::buffer(bytes), ignored);
      return;
    }
    auto connection = std::make_shared<Connection>(
        loop, std::move(socket), state_.options.tls ? state_.options.tls() : nullptr, state_, workers_);
    asio::post(loop->context(), [connection = std::move(connection)] { connection->Start(); });
  }

  ServerState state_;
  WorkerPool workers_;
  std::vector<std::shared_ptr<IoLoop>> loops_;
  TcpAcceptor acceptor_;
  IoTimer accept_timer_;
  uint16_t port_ = 0;
  std::string url_;
  int spare_fd_ = -1;
  bool started_ = false;
  std::promise<void> accepting_ended_;
  bool stopping_ = false;  // loops_[0]'s thread
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  if (absl::Status status = impl->Listen(); !status.ok()) return status;
  impl->Run();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return impl_->port(); }
std::string HttpServer::url() const { return impl_->url(); }
std::chrono::milliseconds HttpServer::Silence() const { return impl_->Silence(); }
void HttpServer::Serve(CompletionService& service) { impl_->state().service = &service; }
void HttpServer::SetLimits(const HttpLimits& limits, const RequestLimits& request_limits) {
  LimitsInForce next = *impl_->state().limits.Get();
  next.http = limits;
  next.decode.limits = request_limits;
  impl_->state().limits.Replace(next);
}
void HttpServer::Drain() { impl_->state().draining = true; }
bool HttpServer::WaitUntilIdle(std::chrono::milliseconds timeout) {
  return impl_->state().running.WaitForNone(timeout);
}
void HttpServer::Stop() { impl_->Stop(); }

}  // namespace optserve
