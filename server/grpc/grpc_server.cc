#include "server/grpc/grpc_server.h"

#include <arpa/inet.h>
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <system_error>
#include <utility>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/grpc/call_pump.h"
#include "server/grpc/completion_service.h"

namespace optserve {
namespace {

// Where to listen: the first address of a name.
struct Endpoint {
  sockaddr_storage address = {};
  socklen_t length = 0;
  std::string host;  // the address in numbers, IPv6 without brackets
  bool loopback = false;

  std::string WithPort(uint16_t port) const {
    return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
  }
};

absl::StatusOr<Endpoint> Resolve(const std::string& host, uint16_t port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (error != 0) {
    return InvalidArgument(
        "gRPC: --grpc-host is '{}', which is neither an address nor a name that is known here ({}); give an address of "
        "this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
        host, gai_strerror(error));
  }
  Endpoint endpoint;
  endpoint.length = list->ai_addrlen;
  std::memcpy(&endpoint.address, list->ai_addr, list->ai_addrlen);
  freeaddrinfo(list);
  char numbers[INET6_ADDRSTRLEN] = {};
  if (endpoint.address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(endpoint.address);
    inet_ntop(AF_INET, &v4.sin_addr, numbers, sizeof(numbers));
    endpoint.loopback = (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  } else {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(endpoint.address);
    inet_ntop(AF_INET6, &v6.sin6_addr, numbers, sizeof(numbers));
    endpoint.loopback = IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
  }
  endpoint.host = numbers;
  return endpoint;
}

// gRPC says only that it could not listen. Tries the same by hand, to say why.
absl::Status WhyNotBound(const Endpoint& endpoint, uint16_t port) {
  const int socket = ::socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  int error = 0;
  if (bind(socket, reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.length) != 0 ||
      listen(socket, 1) != 0) {
    error = errno;
  }
  if (socket >= 0) close(socket);
  const std::string where = endpoint.WithPort(port);
  switch (error) {
    case EADDRINUSE:
      return FailedPrecondition(
          "gRPC cannot listen on {}: the port is taken; free it, or choose another with --grpc-port, or --no-grpc",
          where);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(fmt::format(
          "gRPC cannot listen on {}: ports below 1024 need privileges; choose another with --grpc-port", where));
    case 0:
      return Unavailable("gRPC cannot listen on {}; try again", where);
    default:
      return FailedPrecondition(
          "gRPC cannot listen on {}: {}; --grpc-host must be an address of this machine, such as 127.0.0.1, or 0.0.0.0 "
          "for all of them",
          where, std::generic_category().message(error));
  }
}

int Milliseconds(std::chrono::milliseconds time) {
  return static_cast<int>(std::clamp<int64_t>(time.count(), 1, std::numeric_limits<int>::max()));
}

}  // namespace

class GrpcServer::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)),
        pump_(std::make_shared<CallPump>([this] { UpdateHealth(); })),
        service_(options_, pump_) {}

  ~Impl() { Stop(); }

  absl::Status Start() {
    // What gRPC and protobuf would print (of taken ports, of messages that are not well formed) is either ours to say
    // or the client's to cause; who debugs them can have it.
    if (std::getenv("GRPC_VERBOSITY") == nullptr) {
      gpr_set_log_function([](gpr_log_func_args*) {});
      google::protobuf::SetLogHandler(nullptr);
    }
    OPTSERVE_ASSIGN_OR_RETURN(endpoint_, Resolve(options_.host, options_.port));
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();

    grpc::ServerBuilder builder;
    int bound = 0;
    builder.AddListeningPort(endpoint_.WithPort(options_.port), Credentials(), &bound);
    builder.RegisterService(&service_);
    builder.SetMaxReceiveMessageSize(options_.max_request_bytes);
    grpc::ResourceQuota quota("optserve");
    quota.Resize(options_.max_memory_bytes);
    builder.SetResourceQuota(quota);
    // The size limit counts compressed bytes: without this 16 MiB of zeros would become gigabytes.
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else two servers share a port unnoticed
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options_.max_calls_per_connection);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options_.keepalive_time));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options_.keepalive_timeout));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               Milliseconds(options_.min_ping_interval));
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || bound == 0) return WhyNotBound(endpoint_, options_.port);
    port_ = static_cast<uint16_t>(bound);
    if (!endpoint_.loopback && options_.log != nullptr) {
      options_.log->Warning(
          "grpc_is_not_on_loopback",
          {{"address", address()},
           {"note", "this gRPC lacks later fixes against denial of service: let only trusted hosts reach it"}});
    }
    UpdateHealth();
    return absl::OkStatus();
  }

  uint16_t port() const { return port_; }
  std::string address() const { return endpoint_.WithPort(port_); }

  void Serve(CompletionService& service) {
    service_.Serve(service);
    UpdateHealth();
  }

  void SetLimits(const RequestLimits& limits, std::chrono::milliseconds stall_time) {
    service_.SetLimits(limits, stall_time);
  }

  void Drain() {
    service_.Drain();
    UpdateHealth();
  }

  bool WaitUntilIdle(std::chrono::milliseconds timeout) { return pump_->WaitUntilIdle(timeout); }

  void Stop() {
    if (server_ != nullptr) {
      service_.Drain();
      server_->Shutdown(std::chrono::system_clock::now());  // cancels every call and waits for it
      server_->Wait();
    }
    pump_->Stop();
    server_.reset();
  }

 private:
  std::shared_ptr<grpc::ServerCredentials> Credentials() const {
    if (options_.tls_bundle_file.empty()) return grpc::InsecureServerCredentials();
    const std::string& file = options_.tls_bundle_file;  // certificates and key are each found in the one file
    grpc::experimental::TlsServerCredentialsOptions options(
        std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(file, file, /*refresh_interval_sec=*/1));
    options.watch_identity_key_cert_pairs();
    options.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
    return grpc::experimental::TlsServerCredentials(options);
  }

  // Tells the health service, and with it who watches it, what has changed. On any thread.
  void UpdateHealth() {
    std::lock_guard lock(health_mu_);
    if (server_ == nullptr) return;
    const bool healthy = service_.is_serving() && (!options_.ready || options_.ready().ok());
    if (healthy == healthy_) return;
    healthy_ = healthy;
    server_->GetHealthCheckService()->SetServingStatus(v1::Completion::service_full_name(), healthy);
  }

  const Options options_;
  const std::shared_ptr<CallPump> pump_;
  GrpcCompletionService service_;
  Endpoint endpoint_;
  uint16_t port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::mutex health_mu_;
  std::optional<bool> healthy_;  // as the health service was told
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  OPTSERVE_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcServer::~GrpcServer() = default;
uint16_t GrpcServer::port() const { return impl_->port(); }
std::string GrpcServer::address() const { return impl_->address(); }
void GrpcServer::Serve(CompletionService& service) { impl_->Serve(service); }
void GrpcServer::SetLimits(const RequestLimits& limits, std::chrono::milliseconds stall_time) {
  impl_->SetLimits(limits, stall_time);
}
void GrpcServer::Drain() { impl_->Drain(); }
bool GrpcServer::WaitUntilIdle(std::chrono::milliseconds timeout) { return impl_->WaitUntilIdle(timeout); }
void GrpcServer::Stop() { impl_->Stop(); }

}  // namespace optserve
