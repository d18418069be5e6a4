#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/util/log.h"
#include "engine/util/metrics.h"
#include "server/access/access_control.h"
#include "server/access/key_quotas.h"
#include "server/access/tls_certificate.h"
#include "server/access/usage_ledger.h"
#include "server/server_config.h"

namespace optserve {

// What `serve` keeps in files that may change while it runs: API keys with their limits, the certificate, the usage
// log, and of the configuration the limits and the log level. One thread opens and reloads; what the accessors give is
// for any thread.
class RuntimeFiles {
 public:
  // Reads the configuration again, from the same four places.
  using Reread = std::function<absl::StatusOr<ServerConfig>()>;

  // Errors are a line for the user. `log` and `metrics` outlive it.
  static absl::StatusOr<std::unique_ptr<RuntimeFiles>> Open(const ServerConfig& config, Reread reread, Log& log,
                                                            Metrics& metrics);

  // Each on its own: what cannot be read stays as it was, and a line of the log says why. Then a line says what holds.
  void Reload();

  // As it holds: what cannot change while the server runs is as it was at the start. Of the thread that reloads.
  const ServerConfig& config() const { return config_; }

  AccessControl* access() { return access_ ? &*access_ : nullptr; }  // nullptr: everybody is served
  KeyQuotas& quotas() { return quotas_; }
  TlsCertificate* tls() { return tls_.get(); }     // nullptr: in clear
  UsageLedger* ledger() { return ledger_.get(); }  // nullptr: nothing is recorded

 private:
  RuntimeFiles(const ServerConfig& config, Reread reread, Log& log)
      : config_(config), reread_(std::move(reread)), log_(log) {}

  absl::Status LoadKeys();
  absl::Status LoadConfig();
  void WarnOfCertificate() const;
  void Try(std::string_view what, const absl::Status& status);

  ServerConfig config_;
  const Reread reread_;
  Log& log_;
  std::optional<AccessControl> access_;
  KeyQuotas quotas_;
  size_t num_keys_ = 0;
  std::unique_ptr<TlsCertificate> tls_;
  std::unique_ptr<UsageLedger> ledger_;
  // Of the reload that runs.
  bool all_well_ = true;
  std::string changed_options_;
};

}  // namespace optserve
