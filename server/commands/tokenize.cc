#include "server/commands/tokenize.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/commands/failure.h"
#include "server/commands/model_path.h"
#include "server/text/tokenizer.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::string> Encode(const Tokenizer& tokenizer, std::string_view line) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(line));
  return Json(ids).dump();
}

absl::StatusOr<std::string> Decode(const Tokenizer& tokenizer, std::string_view line) {
  const Json ids = Json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!ids.is_array()) return InvalidArgument("it is not a JSON list of token ids");
  std::vector<int32_t> tokens;
  for (const Json& id : ids) {
    if (!id.is_number_integer() || id < 0 || id >= tokenizer.size()) {
      return InvalidArgument("{} is not a token id from 0 to {}", id.dump(), tokenizer.size() - 1);
    }
    tokens.push_back(id.get<int32_t>());
  }
  return tokenizer.Decode(tokens, /*skip_special=*/true);
}

absl::Status Run(const std::string& model, bool decode) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::filesystem::path directory,
                            ResolveModel(model, HuggingFaceCache(ProcessEnvironment())));
  OPTSERVE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(directory));
  // The C library's buffers: whole ones into a pipe, lines onto a terminal.
  char* buffer = nullptr;
  size_t capacity = 0;
  absl::Status status;
  int64_t number = 0;
  for (ssize_t size = 0; status.ok() && (size = getline(&buffer, &capacity, stdin)) >= 0;) {
    ++number;
    std::string_view line(buffer, static_cast<size_t>(size));
    if (line.ends_with('\n')) line.remove_suffix(1);
    absl::StatusOr<std::string> converted = decode ? Decode(tokenizer, line) : Encode(tokenizer, line);
    if (!converted.ok()) {
      status = InvalidArgument("line {}: {}", number, std::string(converted.status().message()));
      break;
    }
    *converted += '\n';
    std::fwrite(converted->data(), 1, converted->size(), stdout);
  }
  std::free(buffer);
  if (std::fflush(stdout) != 0 && status.ok()) status = Internal("standard output cannot be written");
  return status;
}

}  // namespace

int Tokenize(const std::string& model, bool decode) {
  const absl::Status status = Run(model, decode);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
