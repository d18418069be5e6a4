#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct ssl_ctx_st;

namespace optserve {

// The certificate that the server shows, and its key: what new connections are made with, for both protocols. Any
// thread.
//
// TLS 1.2 and 1.3, ciphers with forward secrecy and authentication only, no renegotiation, no compression. ALPN:
// http/1.1 (gRPC has a context of its own).
class TlsCertificate {
 public:
  // `cert_file`: PEM, the server's own certificate first, then those that lead to a root. `key_file`: PEM, without a
  // password. Errors are a line for the user that names the file: it cannot be read, is not such a thing, or the two do
  // not belong together.
  static absl::StatusOr<std::unique_ptr<TlsCertificate>> Load(std::string cert_file, std::string key_file);
  ~TlsCertificate();

  // Reads both files again. New connections get what they hold; those there are keep theirs. An error changes nothing.
  absl::Status Reload();

  // For a new connection's SSL_new.
  std::shared_ptr<ssl_ctx_st> context() const;

  // A file in memory with certificates and key, under a name that stays: what is read through it is always one or the
  // other of two pairs, and its time of change differs. For gRPC, which reads files on its own.
  const std::string& bundle_file() const { return bundle_file_; }

  std::string not_after() const;  // "Jan 31 12:00:00 2027 GMT"
  bool has_expired() const;       // or will be valid only later
  bool key_is_exposed() const;    // others than the owner (and root's group) may read the key's file

 private:
  struct Pair {
    std::shared_ptr<ssl_ctx_st> context;
    std::string not_after;
    bool has_expired = false;
    bool key_is_exposed = false;
    std::string pem;  // certificates, then the key
  };

  TlsCertificate(std::string cert_file, std::string key_file)
      : cert_file_(std::move(cert_file)), key_file_(std::move(key_file)) {}

  absl::StatusOr<Pair> Read() const;
  absl::Status ReplaceBundle(const std::string& pem) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string cert_file_;
  const std::string key_file_;
  std::string bundle_file_;
  mutable std::mutex mu_;
  Pair pair_ ABSL_GUARDED_BY(mu_);  // without pem
  int bundle_fd_ ABSL_GUARDED_BY(mu_) = -1;
  int64_t num_bundles_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace optserve
