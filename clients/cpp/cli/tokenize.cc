#include "clients/cpp/cli/tokenize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

namespace optserve::cli {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<std::string> Encoded(const client::Client& server, const ServerAccess& access,
                                    const TokenizeOptions& options, const std::string& line) {
  v1::TokenizeRequest request;
  request.set_prompt(line);
  if (!options.model.empty()) request.set_model(options.model);
  if (options.no_special) request.set_add_special_tokens(false);
  const absl::StatusOr<v1::TokenizeResponse> answer = server.Tokenize(request, CallOf(access));
  if (!answer.ok()) return answer.status();
  return Json(answer->tokens()).dump();
}

absl::StatusOr<std::string> Decoded(const client::Client& server, const ServerAccess& access,
                                    const TokenizeOptions& options, const std::string& line) {
  const Json ids = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto is_id = [](const Json& id) { return id.is_number_integer() && id >= 0 && id <= INT32_MAX; };
  if (!ids.is_array() || !std::all_of(ids.begin(), ids.end(), is_id)) {
    return absl::InvalidArgumentError("it is not a JSON list of token ids");
  }
  v1::DetokenizeRequest request;
  if (!options.model.empty()) request.set_model(options.model);
  for (const Json& id : ids) request.add_tokens(id.get<int32_t>());
  const absl::StatusOr<v1::DetokenizeResponse> answer = server.Detokenize(request, CallOf(access));
  if (!answer.ok()) return answer.status();
  return answer->prompt();
}

}  // namespace

int Tokenize(const ServerAccess& access, const TokenizeOptions& options) {
  const absl::StatusOr<std::unique_ptr<client::Client>> server = Connect(access);
  if (!server.ok()) return Fail(server.status(), access);
  std::string line;
  for (int number = 1; std::getline(std::cin, line); ++number) {
    const absl::StatusOr<std::string> converted =
        options.decode ? Decoded(**server, access, options, line) : Encoded(**server, access, options, line);
    if (absl::IsInvalidArgument(converted.status())) {
      return Fail(
          absl::InvalidArgumentError(fmt::format("line {}: {}", number, std::string(converted.status().message()))),
          access);
    }
    if (!converted.ok()) return Fail(converted.status(), access);
    fmt::print("{}\n", *converted);
  }
  return kExitOk;
}

int ListModels(const ServerAccess& access, bool json) {
  const absl::StatusOr<std::unique_ptr<client::Client>> server = Connect(access);
  if (!server.ok()) return Fail(server.status(), access);
  const absl::StatusOr<v1::ListModelsResponse> answer = (*server)->ListModels(CallOf(access));
  if (!answer.ok()) return Fail(answer.status(), access);
  for (const v1::Model& model : answer->models()) {
    if (json) {
      const Json line = {{"id", model.id()}, {"max_model_len", model.max_model_len()}, {"created", model.created()}};
      fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
    } else {
      fmt::print("{}  {} tokens\n", model.id(), model.max_model_len());
    }
  }
  return kExitOk;
}

}  // namespace optserve::cli
