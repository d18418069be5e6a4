#include "server/commands/generate.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>
#include <variant>

#include "engine/engine_client.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/api/json_request.h"
#include "server/api/json_response.h"
#include "server/commands/failure.h"
#include "server/commands/local_engine.h"
#include "server/commands/model_path.h"
#include "server/completion/completion_service.h"
#include "server/text/tokenizer.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

bool IsText(const CompletionField& field) {
  return std::holds_alternative<std::string CompletionRequest::*>(field.target) ||
         std::holds_alternative<StopField>(field.target);
}

// Text stays text; what else there is reads as JSON or, where it does not, is left to the codec to refuse.
Json FieldValue(const CompletionField& field, const std::vector<std::string>& texts) {
  if (std::holds_alternative<StopField>(field.target)) return texts;
  if (IsText(field)) return texts.back();
  const Json value = Json::parse(texts.back(), /*cb=*/nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? Json(texts.back()) : value;
}

absl::StatusOr<std::string> ReadPrompt(const GenerateOptions& options) {
  if (options.prompt.has_value()) return *options.prompt;
  if (isatty(STDIN_FILENO) == 1) return InvalidArgument("give --prompt TEXT, or text on standard input");
  std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  if (text.ends_with('\n')) text.pop_back();  // of the line that echo and editors end
  return text;
}

// The flags as the body of a request, so that they mean what the API's fields mean, with the same checks.
absl::StatusOr<CompletionRequest> BuildRequest(const GenerateOptions& options) {
  OPTSERVE_ASSIGN_OR_RETURN(std::string prompt, ReadPrompt(options));
  if (const std::optional<size_t> bad = FindInvalidUtf8(prompt); bad.has_value()) {
    return InvalidArgument("the prompt is not UTF-8: bad byte at offset {}", *bad);
  }
  Json body = {{"prompt", std::move(prompt)}};
  for (const auto& [name, texts] : options.fields) body[name] = FieldValue(*FindCompletionField(name), texts);
  const bool one_answer = body.value("n", Json(1)) == 1 && body.value("best_of", Json(1)) == 1;
  body["stream"] = one_answer && !options.json;
  return DecodeCompletionRequest(body.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// Calls `on_event` for each event of the answer.
template <typename Function>
absl::Status Complete(CompletionService& service, CompletionRequest request, CompletionHead& head,
                      const Function& on_event) {
  struct Wakeup {
    std::mutex mu;
    std::condition_variable changed;
    bool ready = false;
  };
  const auto wakeup = std::make_shared<Wakeup>();
  const std::shared_ptr<CompletionCall> call = service.Start(std::move(request), [wakeup] {
    const std::lock_guard lock(wakeup->mu);
    wakeup->ready = true;
    wakeup->changed.notify_one();
  });
  head.id = call->id();
  head.created = call->created();
  while (true) {
    {
      std::unique_lock lock(wakeup->mu);
      wakeup->changed.wait(lock, [&] { return wakeup->ready; });
      wakeup->ready = false;
    }
    CompletionBatch batch = call->Take();
    for (CompletionEvent& event : batch.events) on_event(event);
    if (!batch.error.ok()) return batch.error;
    if (batch.done) return absl::OkStatus();
  }
}

absl::Status Run(const ServerConfig& config, const GenerateOptions& options) {
  OPTSERVE_ASSIGN_OR_RETURN(CompletionRequest request, BuildRequest(options));
  OPTSERVE_ASSIGN_OR_RETURN(const std::filesystem::path directory, ModelDirectoryOf(config));
  OPTSERVE_ASSIGN_OR_RETURN(const std::filesystem::path tokenizer_directory,
                            ResolveTokenizer(config.tokenizer, directory));
  OPTSERVE_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(tokenizer_directory));
  const std::string name = ModelName(config.model);
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<EngineClient> engine, StartEngineHere(config, directory));

  CompletionService service(*engine, std::move(tokenizer), {.served_model_name = name});
  const CompletionFormat format = FormatOf(request);
  const bool streamed = request.stream;
  CompletionHead head = {.model = name};
  std::vector<CompletionEvent> choices;
  OPTSERVE_RETURN_IF_ERROR(Complete(service, std::move(request), head, [&](CompletionEvent& event) {
    if (streamed) {
      std::fwrite(event.text.data(), 1, event.text.size(), stdout);
      std::fflush(stdout);
    } else {
      choices.push_back(std::move(event));
    }
  }));
  std::ranges::sort(choices, {}, &CompletionEvent::index);
  std::string out;
  if (options.json) {
    out = EncodeCompletion(head, format, choices, choices.empty() ? Usage() : choices.back().usage);
  } else {
    for (const CompletionEvent& choice : choices) {
      if (choice.index > 0) out += '\n';
      out += choice.text;
    }
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  std::fputc('\n', stdout);
  if (std::fflush(stdout) != 0) return Internal("standard output cannot be written");
  return absl::OkStatus();
}

}  // namespace

std::vector<const CompletionField*> GenerateFields() {
  std::vector<const CompletionField*> fields;
  for (const CompletionField& field : CompletionFields()) {
    const bool of_the_transport = field.name == "model" || field.name == "prompt" || field.name == "stream" ||
                                  std::holds_alternative<StreamOptionsField>(field.target) ||
                                  std::holds_alternative<MetadataField>(field.target) ||
                                  std::holds_alternative<UnsupportedField>(field.target);
    if (!of_the_transport) fields.push_back(&field);
  }
  return fields;
}

int Generate(const ServerConfig& config, const GenerateOptions& options) {
  const absl::Status status = Run(config, options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
