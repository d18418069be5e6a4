#pragma once

#include <string>
#include <vector>

#include "server/access/api_keys.h"

namespace optserve {

struct KeysOptions {
  std::string action;  // new, list, set or revoke
  std::string id;      // of the key to change or revoke
  std::string file;
  std::string name;                // of a new key, for people
  std::vector<KeyChange> changes;  // of a new key, or of the one to change
};

// `optserve keys`: makes, lists, changes and revokes the API keys of a file. A new key is printed once, on standard
// output, and cannot be read again. A running server reads the file again on SIGHUP. Returns the exit code.
int Keys(const KeysOptions& options);

}  // namespace optserve
