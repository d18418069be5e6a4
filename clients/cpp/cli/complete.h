#pragma once

#include <string>
#include <vector>

#include "clients/cpp/cli/server_access.h"
#include "clients/cpp/cli/terminal.h"
#include "optserve/v1/completion.pb.h"

namespace optserve::cli {

struct CompleteOptions {
  std::vector<std::string> texts;  // prompts; neither these nor files: standard input is the prompt
  std::vector<std::string> files;  // each one a prompt; "-" is standard input
  v1::CompletionRequest request;   // without prompts
  ColorWish color = ColorWish::kAuto;
  bool probabilities = false;  // colour each token by its probability
  bool json = false;           // a line for each prompt: CompletionResponse as JSON
  bool stats = false;          // a line about time and tokens on standard error
};

// Prints what the model goes on with: as it comes for one answer, with a blank line between several, under a heading
// for each of several prompts. Returns the exit code.
int Complete(const ServerAccess& access, const CompleteOptions& options);

}  // namespace optserve::cli
