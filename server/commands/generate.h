#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/api/completion_fields.h"
#include "server/server_config.h"

namespace optserve {

// What `optserve generate` was told besides its model and engine.
struct GenerateOptions {
  std::optional<std::string> prompt;  // none: standard input
  bool json = false;                  // the whole answer as POST /v1/completions gives it, instead of its text
  // Fields of the API by their JSON name, with the texts that the command line gave for them.
  std::map<std::string, std::vector<std::string>> fields;
};

// `optserve generate`: one completion, by an engine in this process, to standard output: streamed, or with several
// answers one after the other. Returns the exit code.
int Generate(const ServerConfig& config, const GenerateOptions& options);

// The API's fields that are flags of `generate`: --max-tokens is max_tokens.
std::vector<const CompletionField*> GenerateFields();

}  // namespace optserve
