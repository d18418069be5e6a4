#include "clients/cpp/cli/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "optserve/client/score.h"

namespace optserve::cli {
namespace {

using Json = nlohmann::ordered_json;

absl::Status ReadLines(const std::string& file, const std::string& json_field, std::vector<std::string>& texts) {
  const absl::StatusOr<std::string> text = ReadText(file);
  if (!text.ok()) return text.status();
  std::string_view rest = *text;
  for (int number = 1; !rest.empty() || number == 1; ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (json_field.empty()) {
      texts.emplace_back(line);
      continue;
    }
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains(json_field) || !json[json_field].is_string()) {
      return absl::InvalidArgumentError(
          fmt::format("line {} of '{}' is no JSON object with a text '{}'", number, file, json_field));
    }
    texts.push_back(json[json_field].get<std::string>());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadTexts(const ScoreOptions& options) {
  std::vector<std::string> texts;
  std::vector<std::string> files = options.files;
  if (files.empty()) files.emplace_back("-");
  for (const std::string& file : files) {
    if (!options.whole_files) {
      if (const absl::Status status = ReadLines(file, options.json_field, texts); !status.ok()) return status;
      continue;
    }
    absl::StatusOr<std::string> text = ReadText(file);
    if (!text.ok()) return text.status();
    texts.push_back(*std::move(text));
  }
  return texts;
}

// Scores texts in order and prints them.
class Scorer {
 public:
  Scorer(const client::Client& server, const ServerAccess& access, std::string model)
      : server_(server), access_(access), model_(std::move(model)) {}

  // All texts in one request; one by one if the server refuses that because of one of them. An error is about the
  // server.
  absl::Status Batch(std::span<const std::string> texts) {
    v1::CompletionRequest request = client::ScoringRequest();
    if (!model_.empty()) request.set_model(model_);
    for (const std::string& text : texts) request.add_prompt()->set_text(text);
    const absl::StatusOr<v1::CompletionResponse> answer = server_.Complete(request, CallOf(access_));
    if (!answer.ok() && !absl::IsInvalidArgument(answer.status())) return answer.status();
    if (!answer.ok() && texts.size() == 1) {
      Refused(texts[0], answer.status());
      return absl::OkStatus();
    }
    if (!answer.ok()) {
      for (size_t i = 0; i < texts.size(); ++i) {
        if (absl::Status status = Batch(texts.subspan(i, 1)); !status.ok()) return status;
      }
      return absl::OkStatus();
    }
    std::vector<const v1::Choice*> choices(texts.size());
    size_t scored = 0;
    for (const v1::Choice& choice : answer->choices()) {
      const auto index = static_cast<size_t>(choice.index());
      if (index < choices.size() && std::exchange(choices[index], &choice) == nullptr) ++scored;
    }
    if (scored != texts.size()) {
      return absl::InternalError(fmt::format("{} texts got {} scores", texts.size(), scored));
    }
    for (size_t i = 0; i < texts.size(); ++i) Scored(texts[i], client::ScoreOf(*choices[i]));
    return absl::OkStatus();
  }

  // The summary; the exit code.
  int End() const {
    const client::Score all = {.tokens = tokens_, .log_likelihood = log_likelihood_};
    fmt::print(stderr, "{} texts, {} tokens", index_ - refused_, all.tokens);
    if (all.tokens > 0) fmt::print(stderr, ", perplexity {:.4f}", all.Perplexity());
    if (refused_ > 0) fmt::print(stderr, "; {} refused", refused_);
    fmt::print(stderr, "\n");
    return refused_ > 0 ? kExitRuntimeError : kExitOk;
  }

 private:
  void Scored(const std::string& text, const client::Score& score) {
    tokens_ += score.tokens;
    log_likelihood_ += score.log_likelihood;
    Json line = {
        {"index", index_++}, {"text", text}, {"tokens", score.tokens}, {"log_likelihood", score.log_likelihood}};
    line["perplexity"] = score.tokens == 0 ? Json(nullptr) : Json(score.Perplexity());
    Print(line);
  }

  void Refused(const std::string& text, const absl::Status& why) {
    ++refused_;
    Print({{"index", index_++}, {"text", text}, {"error", std::string(why.message())}});
  }

  static void Print(const Json& line) {
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
    std::fflush(stdout);
  }

  const client::Client& server_;
  const ServerAccess& access_;
  std::string model_;
  int64_t index_ = 0;
  int refused_ = 0;
  int tokens_ = 0;
  double log_likelihood_ = 0;
};

}  // namespace

int ScoreTexts(const ServerAccess& access, const ScoreOptions& options) {
  const absl::StatusOr<std::unique_ptr<client::Client>> server = Connect(access);
  if (!server.ok()) return Fail(server.status(), access);
  const absl::StatusOr<std::vector<std::string>> texts = ReadTexts(options);
  if (!texts.ok()) return Fail(texts.status(), access);
  Scorer scorer(**server, access, options.model);
  const std::span<const std::string> all(*texts);
  const auto batch_size = static_cast<size_t>(options.batch_size);
  for (size_t begin = 0; begin < all.size(); begin += batch_size) {
    const absl::Status status = scorer.Batch(all.subspan(begin, std::min(batch_size, all.size() - begin)));
    if (!status.ok()) return Fail(status, access);
  }
  return scorer.End();
}

}  // namespace optserve::cli
