#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "server/access/api_keys.h"
#include "server/access/tls_certificate.h"
#include "server/doctor/doctor.h"

// What clients meet: ports, keys, the certificate.

namespace optserve {
namespace {

constexpr int kRenewDays = 30;
constexpr int kSecondsOfDay = 24 * 60 * 60;

bool IsLoopback(std::string_view host) { return host.starts_with("127.") || host == "localhost" || host == "::1"; }

// Whether the server could listen there now: 0, or errno.
int TryToListen(const std::string& host, uint16_t port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), fmt::format("{}", port).c_str(), &hints, &found) != 0) return EADDRNOTAVAIL;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const int error = bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 1) == 0 ? 0 : errno;
  close(fd);
  freeaddrinfo(found);
  return error;
}

void CheckPort(std::string_view check, std::string_view flag, const std::string& host, uint16_t port,
               Findings& findings) {
  const int error = TryToListen(host, port);
  if (error == 0) {
    findings.Ok(check, fmt::format("{}:{} is free", host, port));
  } else {
    findings.Fail(check, fmt::format("{}:{}: {}", host, port, std::strerror(error)),
                  error == EADDRINUSE ? fmt::format("--{}, or stop who has it: ss -ltnp", flag)
                                      : fmt::format("--{} and --host must be ours to listen on", flag));
  }
}

void CheckKeys(const ServerConfig& config, Findings& findings) {
  const bool is_open = !IsLoopback(config.host) || (!config.no_grpc && !IsLoopback(config.grpc_host));
  if (config.api_key_file.empty()) {
    if (is_open) {
      findings.Fail("keys", "everybody who reaches this machine may use the model: no --api-key-file",
                    "optserve keys new --api-key-file FILE, and serve with it");
    } else {
      findings.Ok("keys", "none are needed, and only this machine can connect");
    }
    return;
  }
  const absl::StatusOr<std::vector<ApiKey>> keys = ReadApiKeys(config.api_key_file);
  struct stat info = {};
  if (!keys.ok()) {
    findings.Fail("keys", std::string(keys.status().message()),
                  "optserve keys new --api-key-file FILE makes a good one");
  } else if (keys->empty()) {
    findings.Fail("keys", "the file has no key: nobody is served", "optserve keys new --api-key-file FILE");
  } else if (stat(config.api_key_file.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0) {
    findings.Warn("keys", "every user of this machine may read the hashes of the keys", "chmod 0600 FILE");
  } else {
    findings.Ok("keys", fmt::format("{}, each of 192 random bits, kept as SHA-256", keys->size()));
  }
}

void CheckCertificate(const ServerConfig& config, Findings& findings) {
  if (config.tls_cert.empty()) {
    if (IsLoopback(config.host)) {
      findings.Ok("tls", "in clear, on this machine only");
    } else {
      findings.Warn("tls", "keys and prompts cross the network in clear",
                    "--tls-cert and --tls-key, or a reverse proxy");
    }
    return;
  }
  const absl::StatusOr<std::unique_ptr<TlsCertificate>> tls = TlsCertificate::Load(config.tls_cert, config.tls_key);
  if (!tls.ok()) {
    findings.Fail("tls", std::string(tls.status().message()), "give --tls-cert and --tls-key that belong together");
    return;
  }
  const std::string end = (*tls)->not_after();
  tm calendar = {};
  const bool is_date = strptime(end.c_str(), "%b %d %H:%M:%S %Y", &calendar) != nullptr;
  const double days = is_date ? difftime(timegm(&calendar), time(nullptr)) / kSecondsOfDay : 0.0;
  if ((*tls)->has_expired()) {
    findings.Fail("tls", fmt::format("the certificate is not valid now; it ends {}", end), "renew it");
  } else if ((*tls)->key_is_exposed()) {
    findings.Warn("tls", "every user of this machine may read the certificate's key",
                  "chmod 0600 the file of --tls-key");
  } else if (days < kRenewDays) {
    findings.Warn("tls", fmt::format("the certificate ends in {:.0f} days, {}", days, end),
                  "renew it, then systemctl reload");
  } else {
    findings.Ok("tls", fmt::format("valid until {}", end));
  }
}

}  // namespace

void CheckServing(const DoctorRequest& request, Findings& findings) {
  const ServerConfig& config = request.config;
  CheckPort("http_port", "port", config.host, config.port, findings);
  if (!config.no_grpc) CheckPort("grpc_port", "grpc-port", config.grpc_host, config.grpc_port, findings);
  CheckKeys(config, findings);
  CheckCertificate(config, findings);
}

}  // namespace optserve
