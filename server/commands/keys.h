#pragma once

#include <string>

namespace optserve {

struct KeysOptions {
  std::string action;  // new, list or revoke
  std::string id;      // of the key to revoke
  std::string file;
  std::string name;  // of a new key, for people
};

// `optserve keys`: makes, lists and revokes the API keys of a file. A new key is printed once, on standard output, and
// cannot be read again. A running server takes the file as it was when it started. Returns the exit code.
int Keys(const KeysOptions& options);

}  // namespace optserve
