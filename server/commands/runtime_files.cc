#include "server/commands/runtime_files.h"

#include <utility>
#include <vector>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/access/api_keys.h"

namespace optserve {

absl::StatusOr<std::unique_ptr<RuntimeFiles>> RuntimeFiles::Open(const ServerConfig& config, Reread reread, Log& log,
                                                                 Metrics& metrics) {
  std::unique_ptr<RuntimeFiles> files(new RuntimeFiles(config, std::move(reread), log));
  log.SetLevel(config.log_level);
  if (!config.api_key_file.empty()) {
    files->access_.emplace(std::vector<ApiKey>(), AccessControl::Options());
    OPTSERVE_RETURN_IF_ERROR(files->LoadKeys());
  } else if (config.probes_need_key || config.metrics_need_key) {
    return InvalidArgument("--{}-need-key needs keys: give --api-key-file too",
                           config.probes_need_key ? "probes" : "metrics");
  }
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return InvalidArgument("--tls-cert and --tls-key belong together: {} is missing",
                           config.tls_cert.empty() ? "--tls-cert" : "--tls-key");
  }
  if (!config.tls_cert.empty()) {
    OPTSERVE_ASSIGN_OR_RETURN(files->tls_, TlsCertificate::Load(config.tls_cert, config.tls_key));
    files->WarnOfCertificate();
  }
  if (!config.usage_log.empty()) {
    OPTSERVE_ASSIGN_OR_RETURN(files->ledger_,
                              UsageLedger::Open({.file = config.usage_log, .log = &log, .metrics = &metrics}));
  }
  return files;
}

absl::Status RuntimeFiles::LoadKeys() {
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<ApiKey> keys, ReadApiKeys(config_.api_key_file));
  if (keys.empty()) log_.Warning("no_api_keys", {{"file", config_.api_key_file}});
  num_keys_ = keys.size();
  quotas_.Replace(keys);
  access_->Replace(std::move(keys));
  return absl::OkStatus();
}

absl::Status RuntimeFiles::LoadConfig() {
  changed_options_.clear();
  OPTSERVE_ASSIGN_OR_RETURN(const ServerConfig next, reread_());
  const ConfigChanges changes = TakeReloadable(next, config_);
  log_.SetLevel(config_.log_level);
  changed_options_ = fmt::format("{}", fmt::join(changes.taken, ","));
  if (!changes.need_restart.empty()) {
    log_.Warning("needs_restart", {{"options", fmt::format("{}", fmt::join(changes.need_restart, ","))},
                                   {"note", "they were changed, and hold only after a restart"}});
  }
  return absl::OkStatus();
}

void RuntimeFiles::WarnOfCertificate() const {
  if (tls_->key_is_exposed()) {
    log_.Warning("tls_key_is_exposed",
                 {{"file", config_.tls_key}, {"note", "every user of this machine may read it: chmod 600"}});
  }
  if (tls_->has_expired()) {
    log_.Warning("tls_certificate_is_not_valid", {{"file", config_.tls_cert}, {"not_after", tls_->not_after()}});
  }
}

void RuntimeFiles::Try(std::string_view what, const absl::Status& status) {
  if (status.ok()) return;
  all_well_ = false;
  log_.Error(
      "reload_failed",
      {{"what", what}, {"why", std::string(status.message())}, {"note", "what was there before stays in force"}});
}

void RuntimeFiles::Reload() {
  all_well_ = true;
  Try("configuration", LoadConfig());
  if (access_) Try("api_keys", LoadKeys());
  if (tls_ != nullptr) {
    const absl::Status status = tls_->Reload();
    Try("certificate", status);
    if (status.ok()) WarnOfCertificate();
  }
  if (ledger_ != nullptr) Try("usage_log", ledger_->Reopen());
  log_.Info("reloaded", {{"all", all_well_},
                         {"api_keys", access_ ? fmt::format("{}", num_keys_) : "off"},
                         {"certificate_until", tls_ != nullptr ? tls_->not_after() : "off"},
                         {"changed_options", changed_options_},
                         {"log_level", log_.level_name()}});
}

}  // namespace optserve
