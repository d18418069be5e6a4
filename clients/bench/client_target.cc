#include "clients/bench/client_target.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "optserve/client/error_info.h"

namespace optserve::bench {
namespace {

bool IsHttp(const std::string& address) { return address.starts_with("http"); }

// A text of about as many tokens: words that vocabularies of English have whole, by the ids.
std::string TextOf(const std::vector<int32_t>& ids) {
  static constexpr std::string_view kWords[] = {
      "time",   "year", "people", "way",   "day",  "man",  "thing",   "woman",  "life",     "world", "school", "state",
      "family", "hand", "part",   "place", "case", "week", "company", "system", "question", "work",  "number", "night"};
  std::string text;
  for (const int32_t id : ids) {
    if (!text.empty()) text += ' ';
    text += kWords[static_cast<size_t>(id) % std::size(kWords)];
  }
  return text;
}

v1::CompletionRequest ToProto(const LoadRequest& request, const ClientTarget::Options& options) {
  v1::CompletionRequest proto;
  if (!options.model.empty()) proto.set_model(options.model);
  if (options.plain) {
    proto.add_prompt()->set_text(TextOf(request.prompt));
  } else {
    proto.add_prompt()->mutable_token_ids()->mutable_ids()->Assign(request.prompt.begin(), request.prompt.end());
    proto.set_ignore_eos(true);
  }
  proto.set_max_tokens(request.output_tokens);
  proto.set_temperature(0.0f);
  proto.mutable_stream_options()->set_include_usage(true);
  return proto;
}

// Counts an answer's tokens as its events come.
class EventCounter {
 public:
  EventCounter(const std::function<void(int)>& on_tokens, Outcome& outcome)
      : on_tokens_(on_tokens), outcome_(outcome) {}

  void Add(const v1::CompletionEvent& event) {
    if (event.choices_size() > 0) AddChoice(event.choices(0));
    if (!event.has_usage()) return;
    outcome_.prompt_tokens = event.usage().prompt_tokens();
    outcome_.output_tokens = event.usage().completion_tokens();
    // The usage says whether the last, empty event was a token.
    if (std::exchange(is_last_open_, false) && outcome_.output_tokens == seen_ + 1) Arrive(1);
  }

  bool has_seen_any() const { return seen_ > 0; }

 private:
  // Ours sends an event for each token, with empty text where bytes of a character are missing. Others send text that
  // may be of several tokens, how many only `usage` says; and many end with an event that has a finish_reason and no
  // token.
  void AddChoice(const v1::Choice& choice) {
    const bool is_empty = choice.text().empty() && choice.token_ids_size() == 0;
    if (is_empty && choice.finish_reason() != v1::FINISH_REASON_UNSPECIFIED && seen_ > 0) {
      is_last_open_ = true;
      return;
    }
    Arrive(std::max(1, choice.token_ids_size()));
  }

  void Arrive(int num_tokens) {
    seen_ += num_tokens;
    on_tokens_(num_tokens);
  }

  const std::function<void(int)>& on_tokens_;
  Outcome& outcome_;
  int64_t seen_ = 0;
  bool is_last_open_ = false;
};

}  // namespace

std::string ErrorClass(const absl::Status& status) {
  const client::ErrorInfo info = client::ErrorInfoOf(status);
  const std::string code(absl::StatusCodeToString(status.code()));
  const std::string kind = info.http_status != 0 ? absl::StrCat(info.http_status) : code;
  return info.code.empty() ? kind : absl::StrCat(kind, " ", info.code);
}

absl::StatusOr<std::unique_ptr<ClientTarget>> ClientTarget::Make(Options options) {
  client::ClientOptions client_options{
      .address = options.address, .api_key = options.api_key, .tls = {.ca_file = options.ca_file}};
  client_options.retry.max_attempts = 1;
  absl::StatusOr<std::unique_ptr<client::Client>> client = client::Client::Create(client_options);
  if (!client.ok()) return client.status();
  std::unique_ptr<client::Client> metrics;
  if (!options.metrics_address.empty() || IsHttp(options.address)) {
    if (!options.metrics_address.empty()) client_options.address = options.metrics_address;
    absl::StatusOr<std::unique_ptr<client::Client>> other = client::Client::Create(client_options);
    if (!other.ok()) return other.status();
    metrics = *std::move(other);
  }
  return std::unique_ptr<ClientTarget>(new ClientTarget(std::move(options), *std::move(client), std::move(metrics)));
}

Outcome ClientTarget::Complete(const LoadRequest& request, const std::function<void(int num_tokens)>& on_tokens) {
  Outcome outcome;
  EventCounter counter(on_tokens, outcome);
  client::CallTimes times;
  const absl::Status status = client_->Stream(
      ToProto(request, options_), [&](const v1::CompletionEvent& event) { counter.Add(event); },
      {.timeout = std::chrono::milliseconds(static_cast<int64_t>(options_.timeout_seconds * 1e3)), .times = &times});
  if (!status.ok()) {
    outcome.error = ErrorClass(status);
    outcome.message = std::string(status.message());
    outcome.in_stream = counter.has_seen_any();
  }
  if (times.sent.time_since_epoch().count() > 0) outcome.handed_over = times.sent;
  if (times.received.time_since_epoch().count() > 0) outcome.received = times.received;
  return outcome;
}

std::optional<EngineReading> ClientTarget::Read() const {
  if (metrics_ == nullptr) return std::nullopt;
  const absl::StatusOr<std::string> text = metrics_->Metrics();
  return text.ok() ? ReadMetrics(*text) : std::nullopt;
}

std::vector<EngineStep> ClientTarget::Steps() const {
  if (metrics_ == nullptr) return {};
  const absl::StatusOr<std::string> json = metrics_->DebugSteps();
  return json.ok() ? ReadSteps(*json) : std::vector<EngineStep>();
}

absl::StatusOr<std::string> ClientTarget::ModelName() const {
  const absl::StatusOr<v1::ListModelsResponse> models = client_->ListModels();
  if (!models.ok()) return models.status();
  if (models->models_size() == 0) return absl::FailedPreconditionError("the server names no model");
  return models->models(0).id();
}

}  // namespace optserve::bench
