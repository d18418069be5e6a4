#pragma once

#include <string>

#include "clients/cpp/cli/server_access.h"

namespace optserve::cli {

struct TokenizeOptions {
  bool decode = false;      // lists of ids to text
  bool no_special = false;  // no beginning-of-sequence token in front
  std::string model;
};

// Lines of standard input to JSON lists of token ids, or back; as `optserve tokenize` does, but with the server's
// model.
int Tokenize(const ServerAccess& access, const TokenizeOptions& options);

// The models that are served: names, and how many tokens each takes. `json`: a JSON line for each.
int ListModels(const ServerAccess& access, bool json);

}  // namespace optserve::cli
