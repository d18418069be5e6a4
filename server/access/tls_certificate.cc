#include "server/access/tls_certificate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr char kCiphers12[] = "ECDHE+AESGCM:ECDHE+CHACHA20";
constexpr unsigned char kAlpn[] = "\x08http/1.1";

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

struct TextFile {
  std::string text;
  mode_t mode = 0;
};

absl::StatusOr<TextFile> ReadFile(std::string_view flag, const std::string& file) {
  const auto error = [&](int number) {
    return FailedPrecondition("{} {} cannot be read: {}", flag, file, std::strerror(number));
  };
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return error(errno);
  TextFile result;
  struct stat info = {};
  ssize_t count = ::fstat(fd, &info);
  result.mode = info.st_mode;
  char buffer[16384];
  while (count >= 0 && result.text.size() <= kMaxFileBytes && (count = ::read(fd, buffer, sizeof(buffer))) > 0) {
    result.text.append(buffer, static_cast<size_t>(count));
  }
  const int number = errno;
  ::close(fd);
  if (count < 0) return error(number);
  if (result.text.size() > kMaxFileBytes)
    return InvalidArgument("{} {} is too large for what it should be", flag, file);
  return result;
}

// OpenSSL's oldest complaint, and forgets the rest.
std::string WhatOpenSslSays() {
  const char* reason = ERR_reason_error_string(ERR_get_error());
  ERR_clear_error();
  return reason == nullptr ? "no reason given" : reason;
}

int NoPassword(char* /*buffer*/, int /*size*/, int /*write*/, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

int SelectHttp(SSL* /*ssl*/, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
               unsigned int in_size, void* /*arg*/) {
  unsigned char* selected = nullptr;
  const int found = SSL_select_next_proto(&selected, out_size, kAlpn, sizeof(kAlpn) - 1, in, in_size);
  *out = selected;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

absl::StatusOr<std::shared_ptr<SSL_CTX>> NewContext() {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (context == nullptr || SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_cipher_list(context.get(), kCiphers12) != 1) {
    return Unavailable("TLS cannot be set up: {}", WhatOpenSslSays());
  }
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  // What is sent next may have moved and grown since the last attempt; idle connections keep no buffers.
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context.get(), SelectHttp, nullptr);
  return context;
}

std::string TimeText(const ASN1_TIME* time) {
  const Bio bio(BIO_new(BIO_s_mem()));
  char text[64] = {};
  if (bio != nullptr && ASN1_TIME_print(bio.get(), time) == 1) BIO_read(bio.get(), text, sizeof(text) - 1);
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsCertificate>> TlsCertificate::Load(std::string cert_file, std::string key_file) {
  std::unique_ptr<TlsCertificate> loaded(new TlsCertificate(std::move(cert_file), std::move(key_file)));
  OPTSERVE_RETURN_IF_ERROR(loaded->Reload());
  return loaded;
}

TlsCertificate::~TlsCertificate() {
  if (bundle_fd_ >= 0) ::close(bundle_fd_);
}

absl::Status TlsCertificate::Reload() {
  OPTSERVE_ASSIGN_OR_RETURN(Pair pair, Read());
  const std::lock_guard lock(mu_);
  OPTSERVE_RETURN_IF_ERROR(ReplaceBundle(pair.pem));
  pair.pem.clear();
  pair_ = std::move(pair);
  return absl::OkStatus();
}

absl::StatusOr<TlsCertificate::Pair> TlsCertificate::Read() const {
  OPTSERVE_ASSIGN_OR_RETURN(const TextFile cert_text, ReadFile("--tls-cert", cert_file_));
  OPTSERVE_ASSIGN_OR_RETURN(const TextFile key_text, ReadFile("--tls-key", key_file_));
  Pair pair;
  OPTSERVE_ASSIGN_OR_RETURN(pair.context, NewContext());
  ERR_clear_error();

  const Bio cert_bio(BIO_new_mem_buf(cert_text.text.data(), static_cast<int>(cert_text.text.size())));
  const Certificate cert(PEM_read_bio_X509_AUX(cert_bio.get(), nullptr, nullptr, nullptr));
  if (cert == nullptr) {
    return InvalidArgument("--tls-cert {} is not a certificate in PEM format: {}", cert_file_, WhatOpenSslSays());
  }
  if (SSL_CTX_use_certificate(pair.context.get(), cert.get()) != 1) {
    return InvalidArgument("--tls-cert {} cannot be used: {}", cert_file_, WhatOpenSslSays());
  }
  while (X509* issuer = PEM_read_bio_X509(cert_bio.get(), nullptr, nullptr, nullptr)) {
    SSL_CTX_add0_chain_cert(pair.context.get(), issuer);
  }
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return InvalidArgument("--tls-cert {} has a broken certificate behind the first: {}", cert_file_,
                           WhatOpenSslSays());
  }
  ERR_clear_error();

  const Bio key_bio(BIO_new_mem_buf(key_text.text.data(), static_cast<int>(key_text.text.size())));
  bool wants_password = false;
  const Key key(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, NoPassword, &wants_password));
  if (key == nullptr) {
    const std::string why = wants_password ? "it has a password, which nobody could give" : WhatOpenSslSays();
    ERR_clear_error();
    return InvalidArgument("--tls-key {} is not a private key in PEM format: {}", key_file_, why);
  }
  if (X509_check_private_key(cert.get(), key.get()) != 1 ||
      SSL_CTX_use_PrivateKey(pair.context.get(), key.get()) != 1) {
    return InvalidArgument("--tls-key {} is not the key of --tls-cert {}: {}", key_file_, cert_file_,
                           WhatOpenSslSays());
  }
  pair.not_after = TimeText(X509_get0_notAfter(cert.get()));
  pair.has_expired = X509_cmp_current_time(X509_get0_notAfter(cert.get())) < 0 ||
                     X509_cmp_current_time(X509_get0_notBefore(cert.get())) > 0;
  pair.key_is_exposed = (key_text.mode & S_IROTH) != 0;
  pair.pem = cert_text.text + "\n" + key_text.text;
  return pair;
}

// A new file in the old one's descriptor: nobody can read a part of each. Whole seconds are all that some readers
// compare, so each has a second of its own.
absl::Status TlsCertificate::ReplaceBundle(const std::string& pem) {
  const int next = memfd_create("optserve-tls", MFD_CLOEXEC);
  const timespec time = {.tv_sec = std::time(nullptr) + ++num_bundles_, .tv_nsec = 0};
  const timespec times[2] = {time, time};
  if (next < 0 || ::write(next, pem.data(), pem.size()) != static_cast<ssize_t>(pem.size()) ||
      ::futimens(next, times) != 0) {
    const int error = errno;
    if (next >= 0) ::close(next);
    return Unavailable("the certificate cannot be kept in memory: {}", std::strerror(error));
  }
  if (bundle_fd_ < 0) {
    bundle_fd_ = next;
    bundle_file_ = fmt::format("/proc/self/fd/{}", bundle_fd_);
    return absl::OkStatus();
  }
  const bool replaced = ::dup3(next, bundle_fd_, O_CLOEXEC) >= 0;
  ::close(next);
  return replaced ? absl::OkStatus()
                  : Unavailable("the certificate cannot be kept in memory: {}", std::strerror(errno));
}

std::shared_ptr<ssl_ctx_st> TlsCertificate::context() const {
  const std::lock_guard lock(mu_);
  return pair_.context;
}

std::string TlsCertificate::not_after() const {
  const std::lock_guard lock(mu_);
  return pair_.not_after;
}

bool TlsCertificate::has_expired() const {
  const std::lock_guard lock(mu_);
  return pair_.has_expired;
}

bool TlsCertificate::key_is_exposed() const {
  const std::lock_guard lock(mu_);
  return pair_.key_is_exposed;
}

}  // namespace optserve
