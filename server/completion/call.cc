#include "server/completion/call.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

// How an answer that did not come to its own end makes the whole call fail.
absl::Status FailureOf(const TokenEvent& event, const CompletionRequest& request) {
  switch (event.finish) {
    case FinishReason::kNone:
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError(
          fmt::format("the request took longer than its timeout, {} s", request.timeout_seconds.value_or(0)));
    case FinishReason::kCancelled:  // not by us: we take no events of what we have cancelled
      return Unavailable("the engine has ended the request; it can be sent again");
    case FinishReason::kError:
      break;
  }
  return event.error.ok() ? Internal("an answer failed without an error") : event.error;
}

FinishReason ReasonOf(const absl::Status& failure) {
  if (absl::IsDeadlineExceeded(failure)) return FinishReason::kDeadline;
  if (absl::IsCancelled(failure)) return FinishReason::kCancelled;
  return FinishReason::kError;
}

// As the metric optserve_requests_total has them.
std::string_view FinishName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
    case FinishReason::kNone:
      break;
  }
  return "error";
}

// How many best tokens the answers need of each prompt token; -1: not even its own log probability.
int32_t NumPromptLogprobs(const CompletionRequest& request) {
  const int32_t for_echo = request.echo ? request.logprobs.value_or(-1) : -1;
  return std::max(for_echo, request.prompt_logprobs.value_or(-1));
}

}  // namespace

CallState::CallState(Setup setup, CompletionRequest request) : setup_(std::move(setup)), request_(std::move(request)) {
  context_ = {.request = &request_, .tokenizer = setup_.tokenizer};
  context_.eos_token_ids = setup_.engine->model().eos_token_ids;
}

GenerateRequest CallState::MakeRequest(const PreparedPrompt& prompt, RequestId id, uint64_t seed) const {
  const ModelInfo& model = setup_.engine->model();
  GenerateRequest request{.id = id,
                          .prompt = prompt.ids,
                          .max_tokens = request_.max_tokens.value_or(kDefaultMaxTokens),
                          .num_choices = num_candidates(),
                          .stop_token_ids = request_.stop_token_ids,
                          .num_prompt_logprobs = NumPromptLogprobs(request_),
                          .api_key_id = request_.api_key_id,
                          .user = request_.user,
                          .cache_salt = request_.cache_salt,
                          .priority = request_.priority,
                          .batch = request_.batch,
                          .share_weight = setup_.lease != nullptr ? setup_.lease->share_weight() : 1};
  request.sampling = {.temperature = request_.temperature,
                      .top_k = request_.top_k,
                      .top_p = request_.top_p,
                      .min_p = request_.min_p,
                      .typical_p = request_.typical_p,
                      .repetition_penalty = request_.repetition_penalty,
                      .presence_penalty = request_.presence_penalty,
                      .frequency_penalty = request_.frequency_penalty,
                      .logit_bias = request_.logit_bias,
                      .seed = seed,
                      .num_logprobs = request_.logprobs.value_or(0),
                      .min_tokens = request_.min_tokens,
                      .no_repeat_ngram_size = request_.no_repeat_ngram_size};
  // Rows of the embedding that the tokenizer has no token for.
  if (setup_.tokenizer != nullptr && setup_.tokenizer->size() < model.vocab_size) {
    request.sampling.vocab_limit = setup_.tokenizer->size();
  }
  if (!request_.ignore_eos) {
    for (const int32_t eos : model.eos_token_ids) {
      const auto& ids = request.stop_token_ids;
      if (std::ranges::find(ids, eos) == ids.end()) request.stop_token_ids.push_back(eos);
    }
  }
  if (request_.timeout_seconds) {
    request.deadline_ns = setup_.start_ns + static_cast<int64_t>(*request_.timeout_seconds * 1e9);
  }
  return request;
}

void CallState::Begin(std::vector<PreparedPrompt> prompts, const std::vector<uint64_t>& seeds) {
  prompts_.reserve(prompts.size());  // choices point into it
  for (PreparedPrompt& prompt : prompts) {
    usage_.prompt_tokens += static_cast<int32_t>(prompt.ids.size());
    PromptState& state = prompts_.emplace_back(PromptState{.prompt = std::move(prompt)});
    if (NumPromptLogprobs(request_) >= 0) state.num_scores = state.prompt.ids.size() - 1;
    for (int32_t i = 0; i < num_candidates(); ++i) {
      state.choices.push_back({.assembler = ChoiceAssembler(context_, state.prompt)});
    }
  }
  num_unfinished_ = static_cast<int32_t>(prompts.size()) * num_candidates();
  if (setup_.lease != nullptr) {
    const int64_t answers = int64_t{num_unfinished_} * request_.max_tokens.value_or(kDefaultMaxTokens);
    absl::Status status = setup_.lease->ReserveTokens(usage_.prompt_tokens + answers);
    if (!status.ok()) return Fail(std::move(status));
  }
  {
    const std::lock_guard lock(mu_);
    has_begun_ = true;
    if (setup_.trace != nullptr) times_.resize(prompts_.size());
  }
  if (const absl::Status status = SubmitAll(seeds); !status.ok()) Fail(status);
}

absl::Status CallState::SubmitAll(const std::vector<uint64_t>& seeds) {
  // Once has_begun_, Take may run: of what it touches, only what never changes is read here.
  for (size_t i = 0; i < seeds.size(); ++i) {
    const RequestId id = setup_.first_request + i;
    {
      const std::lock_guard lock(mu_);
      if (has_ended_) return absl::OkStatus();
      submitted_.push_back(id);
      if (!times_.empty()) times_[i].submit_ns = NowNs();
      num_open_ += num_candidates();
    }
    absl::Status status = setup_.engine->Submit(MakeRequest(prompts_[i].prompt, id, seeds[i]), shared_from_this());
    if (!status.ok()) {
      const std::lock_guard lock(mu_);
      num_open_ -= num_candidates();
      return status;
    }
    // Who ended the call meanwhile may have cancelled `id` before the engine knew it.
    const std::lock_guard lock(mu_);
    if (has_ended_) {
      setup_.engine->Cancel(id);
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

void CallState::Fail(absl::Status error) {
  {
    const std::lock_guard lock(mu_);
    failure_ = std::move(error);
  }
  setup_.on_ready();
}

void CallState::OnEvents(std::vector<TokenEvent> events) {
  const int64_t now_ns = NowNs();
  bool has_news = false;
  std::optional<UsageRecord> record;
  {
    const std::lock_guard lock(mu_);
    if (!times_.empty()) NoteTimes(events, now_ns);
    for (const TokenEvent& event : events) {
      engine_ns_ += event.engine_ns;
      if (event.finish != FinishReason::kNone) --num_open_;
      if (has_ended_ || !event.token) continue;
      ++spent_.completion_tokens;
      if (event.choice == 0) spent_.cached_tokens += event.cached_tokens;
    }
    has_news = !has_ended_;
    if (has_news) arrivals_.push_back({.time_ns = now_ns, .events = std::move(events)});
    record = TakeRecord(/*is_over=*/false);
  }
  Record(record);
  if (has_news) setup_.on_ready();
}

void CallState::NoteTimes(const std::vector<TokenEvent>& events, int64_t now_ns) {
  for (const TokenEvent& event : events) {
    PromptTimes& times = times_[event.request - setup_.first_request];
    if (times.queue_ns == 0) times.queue_ns = event.queue_ns;
    if (times.first_token_ns == 0 && event.token) times.first_token_ns = now_ns;
  }
}

CompletionBatch CallState::Take() {
  if (is_done_) return {.done = true};
  std::vector<Arrival> arrivals;
  absl::Status failure;
  bool has_begun = false;
  {
    const std::lock_guard lock(mu_);
    arrivals.swap(arrivals_);
    failure = is_cancelled_ ? absl::CancelledError("the request was cancelled") : failure_;
    has_begun = has_begun_;
  }
  CompletionBatch batch;
  for (Arrival& arrival : arrivals) {
    for (TokenEvent& event : arrival.events) {
      if (failure.ok()) failure = Process({.time_ns = arrival.time_ns, .event = std::move(event)}, batch.events);
    }
  }
  if (!failure.ok()) {
    if (!has_delivered_) batch.events.clear();  // then the error can be the whole answer
    batch.error = failure;
    batch.done = true;
    End(ReasonOf(failure), usage_);
  } else if (has_begun && num_unfinished_ == 0) {
    if (!request_.stream) FinishWhole(batch.events);
    batch.done = true;
    End(reason_, usage_);
  }
  has_delivered_ = has_delivered_ || !batch.events.empty();
  is_done_ = batch.done;
  return batch;
}

absl::Status CallState::Process(TimedEvent timed, std::vector<CompletionEvent>& out) {
  TokenEvent& event = timed.event;
  PromptState& prompt = prompts_[event.request - setup_.first_request];
  if (prompt.choices[event.choice].assembler.finished()) return absl::OkStatus();  // by a stop string
  OPTSERVE_RETURN_IF_ERROR(FailureOf(event, request_));
  // An engine that took over from a lost one may say again what we have.
  const auto num_scores = static_cast<int32_t>(prompt.scores.size());
  if (!event.prompt_scores.empty() && event.prompt_scores_begin > num_scores + 1) {
    return Internal("prompt scores {} to {} are missing", num_scores + 1, event.prompt_scores_begin - 1);
  }
  const auto num_known = std::min<size_t>(event.prompt_scores.size(), num_scores + 1 - event.prompt_scores_begin);
  std::move(event.prompt_scores.begin() + static_cast<ptrdiff_t>(num_known), event.prompt_scores.end(),
            std::back_inserter(prompt.scores));
  event.prompt_scores.clear();
  prompt.held.push_back(std::move(timed));
  // Only answer 0 brings the scores, but all answers show them.
  if (prompt.scores.size() < prompt.num_scores) return absl::OkStatus();
  for (const TimedEvent& held : prompt.held) Answer(prompt, held, out);
  prompt.held.clear();
  return absl::OkStatus();
}

void CallState::Answer(PromptState& prompt, const TimedEvent& timed, std::vector<CompletionEvent>& out) {
  const TokenEvent& event = timed.event;
  Choice& choice = prompt.choices[event.choice];
  const bool says_something = event.token.has_value() || event.finish != FinishReason::kNone;
  if (!says_something || choice.assembler.finished()) return;
  if (event.token) {
    if (event.choice == 0 && choice.last_token_ns == 0) {
      usage_.cached_tokens += event.cached_tokens;
      if (setup_.metrics != nullptr) setup_.metrics->ObserveRequestQueue(Seconds(event.queue_ns));
    }
    ++usage_.completion_tokens;
    ObserveToken(choice, timed.time_ns);
  }
  CompletionEvent piece = choice.assembler.Push(event, prompt.scores);
  if (choice.assembler.finished()) {
    --num_unfinished_;
    choice.end_ns = timed.time_ns;
    if (piece.finish == FinishReason::kLength) reason_ = FinishReason::kLength;
    if (event.finish == FinishReason::kNone) setup_.engine->CancelChoice(event.request, event.choice);
  }
  if (!request_.stream) {
    Append(std::move(piece), choice.whole);
    return;
  }
  const auto prompt_index = static_cast<int32_t>(event.request - setup_.first_request);
  piece.index = prompt_index * request_.n + event.choice;
  piece.usage = usage_;
  out.push_back(std::move(piece));
}

void CallState::FinishWhole(std::vector<CompletionEvent>& out) {
  for (PromptState& prompt : prompts_) {
    std::vector<size_t> order(prompt.choices.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (num_candidates() > request_.n) {
      std::ranges::stable_sort(order, std::greater<>(),
                               [&](size_t i) { return prompt.choices[i].assembler.mean_logprob(); });
    }
    for (int32_t j = 0; j < request_.n; ++j) {
      CompletionEvent& whole = out.emplace_back(std::move(prompt.choices[order[j]].whole));
      whole.index = static_cast<int32_t>(out.size()) - 1;
      whole.usage = usage_;
    }
  }
}

void CallState::ObserveToken(Choice& choice, int64_t time_ns) const {
  const bool is_first = choice.last_token_ns == 0;
  const double seconds = Seconds(time_ns - (is_first ? setup_.start_ns : choice.last_token_ns));
  choice.last_token_ns = time_ns;
  if (setup_.metrics == nullptr) return;
  if (is_first) {
    setup_.metrics->ObserveTimeToFirstToken(seconds);
  } else {
    setup_.metrics->ObserveInterTokenLatency(seconds);
  }
}

void CallState::Cancel() {
  {
    const std::lock_guard lock(mu_);
    if (has_ended_) return;
    is_cancelled_ = true;
  }
  End(FinishReason::kCancelled, std::nullopt);
}

void CallState::NoteAnswered() const {
  if (setup_.metrics != nullptr) setup_.metrics->ObserveServing(Seconds(NowNs() - setup_.received_ns));
}

void CallState::End(FinishReason reason, const std::optional<Usage>& usage) {
  std::vector<RequestId> submitted;
  bool has_begun = false;
  int64_t used_tokens = 0;
  std::optional<UsageRecord> record;
  {
    const std::lock_guard lock(mu_);
    if (has_ended_) return;
    has_ended_ = true;
    has_begun = has_begun_;
    arrivals_.clear();
    end_reason_ = reason;
    end_ns_ = NowNs();
    if (has_begun) {
      // The engine's own errors cost nobody anything.
      if (reason != FinishReason::kError) used_tokens = usage_.prompt_tokens;
      if (usage) spent_ = *usage;
      spent_.prompt_tokens = usage_.prompt_tokens;
      used_tokens += spent_.completion_tokens;
    }
    // An end of its own leaves nothing to cancel.
    if (reason != FinishReason::kStop && reason != FinishReason::kLength) submitted.swap(submitted_);
    record = TakeRecord(/*is_over=*/false);
  }
  for (const RequestId id : submitted) setup_.engine->Cancel(id);
  if (setup_.lease != nullptr) setup_.lease->Settle(used_tokens);
  Record(record);
  // A request that was refused before it began is the transport's to count.
  if (has_begun && setup_.metrics != nullptr)
    setup_.metrics->ObserveRequest(Seconds(NowNs() - setup_.start_ns), reason);
}

std::optional<UsageRecord> CallState::TakeRecord(bool is_over) {
  if (setup_.ledger == nullptr || is_recorded_ || !has_begun_ || !has_ended_) return std::nullopt;
  if (num_open_ > 0 && !is_over) return std::nullopt;
  is_recorded_ = true;
  return UsageRecord{.request_id = request_.request_id,
                     .id = setup_.id,
                     .key_id = request_.api_key_id,
                     .user = request_.user,
                     .model = setup_.model_name,
                     .prompt_tokens = spent_.prompt_tokens,
                     .completion_tokens = spent_.completion_tokens,
                     .cached_tokens = spent_.cached_tokens,
                     .engine_seconds = Seconds(engine_ns_),
                     .finish = FinishName(end_reason_)};
}

void CallState::Record(const std::optional<UsageRecord>& record) const {
  if (record) setup_.ledger->Append(*record);
}

void CallState::RecordTrace() {
  CallRecord record{.id = setup_.id,
                    .model = setup_.model_name,
                    .usage = spent_,
                    .engine_seconds = Seconds(engine_ns_),
                    .finish = FinishName(end_reason_),
                    .prompts = std::move(times_)};
  for (size_t i = 0; i < record.prompts.size(); ++i) {
    bool is_cut_off = false;  // then the part it was in goes up to the end of all
    int64_t& end_ns = record.prompts[i].end_ns;
    for (const Choice& choice : prompts_[i].choices) {
      const bool has_finished = choice.end_ns != 0;
      end_ns = std::max(end_ns, has_finished ? choice.end_ns : end_ns_);
      is_cut_off = is_cut_off || (!has_finished && end_reason_ == FinishReason::kCancelled);
      record.finish_reasons.emplace_back(FinishName(has_finished ? choice.assembler.finish() : end_reason_));
    }
    if (is_cut_off) end_ns = 0;
  }
  setup_.trace->Record(request_, std::move(record));
}

// The engine may have gone without saying the last word, as it does when the server ends.
CallState::~CallState() {
  const std::lock_guard lock(mu_);
  Record(TakeRecord(/*is_over=*/true));
  if (setup_.trace != nullptr) RecordTrace();
}

}  // namespace optserve
