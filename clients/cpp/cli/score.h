#pragma once

#include <string>
#include <vector>

#include "clients/cpp/cli/server_access.h"

namespace optserve::cli {

struct ScoreOptions {
  std::vector<std::string> files;  // none: standard input
  std::string json_field;          // lines are JSON objects, and the text is this member's; empty: lines are texts
  bool whole_files = false;        // each file is one text
  std::string model;
  int batch_size = 16;  // texts in one request
};

// Prints a JSON line for each text, in order:
//
//   {"index":0,"text":"...","tokens":12,"log_likelihood":-34.5,"perplexity":17.7}
//
// or {"index":0,"text":"...","error":"..."} for a text that the server refuses, a too long one for example; and a line
// about all of them on standard error. Exit code 1 if a text was refused.
int ScoreTexts(const ServerAccess& access, const ScoreOptions& options);

}  // namespace optserve::cli
