#include "server/commands/keys.h"

#include <cstdio>
#include <vector>

#include "absl/status/status.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/access/api_keys.h"
#include "server/commands/failure.h"

namespace optserve {
namespace {

absl::Status New(const KeysOptions& options) {
  KeySettings settings;
  OPTSERVE_RETURN_IF_ERROR(ApplyChanges(options.changes, settings));
  OPTSERVE_ASSIGN_OR_RETURN(const NewApiKey made, AddApiKey(options.file, options.name, settings));
  std::printf("%s\n", made.secret.c_str());
  std::fprintf(stderr, "optserve: this is %s; keep it now, only its hash is kept here\n", made.key.id.c_str());
  return absl::OkStatus();
}

absl::Status List(const KeysOptions& options) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::vector<ApiKey> keys, ReadApiKeys(options.file));
  for (const ApiKey& key : keys) {
    std::string line = key.id + " " + key.created;
    for (const std::string& part : {PrintSettings(key.settings), key.name}) {
      if (!part.empty()) line += " " + part;
    }
    std::printf("%s\n", line.c_str());
  }
  return absl::OkStatus();
}

absl::Status Set(const KeysOptions& options) {
  if (options.id.empty() || options.changes.empty()) {
    return InvalidArgument("keys set needs the ID of a key and what to set, such as --requests-per-minute 60");
  }
  OPTSERVE_ASSIGN_OR_RETURN(const ApiKey key, ChangeApiKey(options.file, options.id, options.changes));
  std::fprintf(stderr, "optserve: %s has changed; a server that runs reads it on SIGHUP\n", key.id.c_str());
  return absl::OkStatus();
}

absl::Status Revoke(const KeysOptions& options) {
  if (options.id.empty()) return InvalidArgument("keys revoke needs the ID of a key; optserve keys list shows them");
  OPTSERVE_ASSIGN_OR_RETURN(const ApiKey key, RevokeApiKey(options.file, options.id));
  std::fprintf(stderr, "optserve: %s is revoked; a server that runs reads it on SIGHUP\n", key.id.c_str());
  return absl::OkStatus();
}

absl::Status Run(const KeysOptions& options) {
  if (options.action != "revoke" && options.action != "set" && !options.id.empty()) {
    return InvalidArgument("keys {} takes no '{}'", options.action, options.id);
  }
  if (options.action != "new" && options.action != "set" && !options.changes.empty()) {
    return InvalidArgument("keys {} changes no setting; optserve keys set does", options.action);
  }
  if (options.action == "new") return New(options);
  if (options.action == "list") return List(options);
  if (options.action == "revoke") return Revoke(options);
  if (options.action == "set") return Set(options);
  return InvalidArgument("keys takes new, list, set or revoke, not '{}'", options.action);
}

}  // namespace

int Keys(const KeysOptions& options) {
  const absl::Status status = Run(options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
