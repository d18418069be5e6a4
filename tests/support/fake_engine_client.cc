#include "tests/support/fake_engine_client.h"

#include <algorithm>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/mix.h"
#include "engine/util/status.h"

namespace optserve {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

ModelInfo FakeEngineClient::DefaultModel() {
  return {.vocab_size = 4096, .max_model_len = 1024, .eos_token_ids = {2}, .max_num_seqs = 256, .kv_tokens = 1 << 16};
}

FakeEngineClient::TokenFunction FakeEngineClient::Scripted(std::vector<std::vector<int32_t>> scripts, int32_t eos) {
  return [scripts = std::move(scripts), eos](const GenerateRequest&, int32_t choice, int32_t index) {
    const std::vector<int32_t>& script = scripts[choice % scripts.size()];
    return index < static_cast<int32_t>(script.size()) ? script[index] : eos;
  };
}

FakeEngineClient::TokenFunction FakeEngineClient::HashedTokens() {
  return [](const GenerateRequest& request, int32_t choice, int32_t index) {
    uint64_t hash = static_cast<uint64_t>(index);
    for (const int32_t id : request.prompt) hash = Mix(hash, static_cast<uint64_t>(id));
    if (request.sampling.temperature > 0) {
      hash = Mix(Mix(hash, request.sampling.seed), static_cast<uint64_t>(request.first_choice + choice));
    }
    const int32_t limit = request.sampling.vocab_limit > 0 ? request.sampling.vocab_limit : 4096;
    return 4 + static_cast<int32_t>(hash % static_cast<uint64_t>(limit - 4));
  };
}

TokenScore FakeEngineClient::Score(int32_t id, int32_t position, int32_t num_top) {
  // Rank r of this position is id 4 + (37 * position + 11 * r) % 4000, with log probability -0.3 - 0.7 * r. An id that
  // is not among the first 32 ranks has one of its own.
  TokenScore score{.id = id, .logprob = -30.1f - 0.01f * static_cast<float>(id % 97)};
  for (int32_t rank = 0; rank < 32; ++rank) {
    const TokenLogprob ranked{.id = 4 + (37 * position + 11 * rank) % 4000,
                              .logprob = -0.3f - 0.7f * static_cast<float>(rank)};
    if (rank < num_top) score.top.push_back(ranked);
    if (ranked.id == id) score.logprob = ranked.logprob;
  }
  return score;
}

FakeEngineClient::FakeEngineClient(Options options) : options_(std::move(options)) {
  if (options_.pace == Pace::kOwnThread) thread_ = std::thread([this] { RunThread(); });
}

FakeEngineClient::~FakeEngineClient() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  {
    const std::lock_guard lock(mu_);
    for (auto& [id, live] : live_) {
      for (Answer& answer : live.answers) answer.cancelled = true;
    }
  }
  Step();
}

absl::Status FakeEngineClient::Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) {
  {
    const std::lock_guard lock(mu_);
    submitted_.push_back(request);
    if (!refusal_.ok()) return refusal_;
    if (!death_.ok()) return death_;
    if (draining_) {
      return WithRetryAfter(WithErrorCode(Unavailable("the server is shutting down"), "shutting_down"), 1);
    }
    if (static_cast<int32_t>(live_.size()) >= options_.max_queue) {
      return WithRetryAfter(ResourceExhausted("the queue is full: {} requests wait", live_.size()), 1);
    }
    const RequestId id = request.id;
    Live live{.request = std::move(request), .sink = std::move(sink)};
    live.answers.resize(live.request.num_choices);
    live.answers[0].num_generated = static_cast<int32_t>(live.request.generated.size());
    live_.emplace(id, std::move(live));
  }
  changed_.notify_all();
  if (options_.pace == Pace::kAtOnce) {
    while (Step()) {
    }
  }
  return absl::OkStatus();
}

void FakeEngineClient::Cancel(RequestId id) {
  {
    const std::lock_guard lock(mu_);
    cancellations_.push_back({.id = id});
    const auto it = live_.find(id);
    if (it == live_.end()) return;
    for (Answer& answer : it->second.answers) answer.cancelled = true;
  }
  changed_.notify_all();
}

void FakeEngineClient::CancelChoice(RequestId id, int32_t choice) {
  {
    const std::lock_guard lock(mu_);
    cancellations_.push_back({.id = id, .choice = choice});
    const auto it = live_.find(id);
    if (it == live_.end()) return;
    it->second.answers[choice].cancelled = true;
  }
  changed_.notify_all();
}

void FakeEngineClient::Drain() {
  const std::lock_guard lock(mu_);
  draining_ = true;
}

EngineStats FakeEngineClient::Stats() const {
  const std::lock_guard lock(mu_);
  EngineStats stats = stats_;
  for (const auto& [id, live] : live_) stats.running += live.request.num_choices;
  return stats;
}

std::vector<StepRecord> FakeEngineClient::RecentSteps(uint64_t after) const {
  const std::lock_guard lock(mu_);
  std::vector<StepRecord> steps;
  std::ranges::copy_if(steps_, std::back_inserter(steps), [&](const StepRecord& step) { return step.step > after; });
  return steps;
}

void FakeEngineClient::SetSteps(std::vector<StepRecord> steps) {
  const std::lock_guard lock(mu_);
  steps_ = std::move(steps);
}

absl::Status FakeEngineClient::Health() const {
  const std::lock_guard lock(mu_);
  return death_;
}

bool FakeEngineClient::Step() {
  const std::lock_guard step_lock(step_mu_);
  Deliveries deliveries;
  {
    const std::lock_guard lock(mu_);
    if (live_.empty()) return false;
    for (auto it = live_.begin(); it != live_.end();) {
      Live& live = it->second;
      std::vector<TokenEvent> events;
      Advance(live, events);
      for (const TokenEvent& event : events) stats_.generated_tokens += event.token.has_value() ? 1 : 0;
      std::vector<TokenEvent>& delivery = deliveries[live.sink];
      std::ranges::move(events, std::back_inserter(delivery));
      it = std::ranges::all_of(live.answers, &Answer::finished) ? live_.erase(it) : std::next(it);
    }
    ++stats_.steps;
  }
  for (auto& [sink, events] : deliveries) {
    if (!events.empty()) sink->OnEvents(std::move(events));
  }
  return true;
}

void FakeEngineClient::Advance(Live& live, std::vector<TokenEvent>& events) const {
  const GenerateRequest& request = live.request;
  const auto prompt_size = static_cast<int32_t>(request.prompt.size());
  for (int32_t choice = 0; choice < request.num_choices; ++choice) {
    Answer& answer = live.answers[choice];
    if (answer.finished) continue;
    const bool is_late = request.deadline_ns != 0 && NowNs() >= request.deadline_ns;
    if (!answer.cancelled && !is_late) continue;
    answer.finished = true;
    events.push_back({.request = request.id,
                      .choice = choice,
                      .finish = answer.cancelled ? FinishReason::kCancelled : FinishReason::kDeadline});
  }
  std::vector<TokenScore> prompt_scores;
  int32_t prompt_scores_begin = 0;
  if (live.num_prefilled < prompt_size) {
    const int32_t begin = std::max(request.prompt_scores_sent + 1, live.num_prefilled);
    live.num_prefilled = std::min(prompt_size, live.num_prefilled + options_.prefill_chunk);
    if (request.num_prompt_logprobs >= 0) {
      prompt_scores_begin = begin;
      for (int32_t i = begin; i < live.num_prefilled; ++i) {
        prompt_scores.push_back(Score(request.prompt[i], i, request.num_prompt_logprobs));
      }
    }
    if (live.num_prefilled < prompt_size) {
      if (!prompt_scores.empty() && !live.answers[0].finished) {
        events.push_back({.request = request.id,
                          .prompt_scores = std::move(prompt_scores),
                          .prompt_scores_begin = prompt_scores_begin});
      }
      return;
    }
  }
  for (int32_t choice = 0; choice < request.num_choices; ++choice) {
    Answer& answer = live.answers[choice];
    if (answer.finished) continue;
    TokenEvent event = AdvanceAnswer(live, choice, answer);
    if (choice == 0 && !prompt_scores.empty()) {
      event.prompt_scores = std::move(prompt_scores);
      event.prompt_scores_begin = prompt_scores_begin;
    }
    events.push_back(std::move(event));
  }
}

TokenEvent FakeEngineClient::AdvanceAnswer(const Live& live, int32_t choice, Answer& answer) const {
  const GenerateRequest& request = live.request;
  TokenEvent event{.request = request.id, .choice = choice};
  if (request.max_tokens > 0) {
    const TokenFunction& next_token = options_.next_token;
    const int32_t index = answer.num_generated++;
    const int32_t id = next_token ? next_token(request, choice, index) : HashedTokens()(request, choice, index);
    const int32_t position = static_cast<int32_t>(request.prompt.size()) + index;
    event.token = Score(id, position, request.sampling.num_logprobs);
    const bool is_stop = std::ranges::find(request.stop_token_ids, id) != request.stop_token_ids.end();
    if (is_stop && index >= request.sampling.min_tokens) event.finish = FinishReason::kStop;
  }
  if (event.finish == FinishReason::kNone && answer.num_generated >= request.max_tokens) {
    event.finish = FinishReason::kLength;
  }
  answer.finished = event.finish != FinishReason::kNone;
  return event;
}

void FakeEngineClient::Die(const absl::Status& why) {
  const std::lock_guard step_lock(step_mu_);
  Deliveries deliveries;
  {
    const std::lock_guard lock(mu_);
    death_ = why;
    for (const auto& [id, live] : live_) {
      for (int32_t choice = 0; choice < live.request.num_choices; ++choice) {
        if (live.answers[choice].finished) continue;
        deliveries[live.sink].push_back(
            {.request = id, .choice = choice, .finish = FinishReason::kError, .error = why});
      }
    }
    live_.clear();
  }
  for (auto& [sink, events] : deliveries) sink->OnEvents(std::move(events));
}

void FakeEngineClient::RefuseWith(absl::Status status) {
  const std::lock_guard lock(mu_);
  refusal_ = std::move(status);
}

std::vector<GenerateRequest> FakeEngineClient::submitted() const {
  const std::lock_guard lock(mu_);
  return submitted_;
}

std::vector<FakeEngineClient::Cancellation> FakeEngineClient::cancellations() const {
  const std::lock_guard lock(mu_);
  return cancellations_;
}

int FakeEngineClient::num_live() const {
  const std::lock_guard lock(mu_);
  int num_live = 0;
  for (const auto& [id, live] : live_) {
    num_live += static_cast<int>(std::ranges::count_if(
        live.answers, [](const Answer& answer) { return !answer.finished && !answer.cancelled; }));
  }
  return num_live;
}

void FakeEngineClient::RunThread() {
  for (;;) {
    {
      std::unique_lock lock(mu_);
      changed_.wait(lock, [this] { return stopping_ || !live_.empty(); });
      if (stopping_) return;
    }
    Step();
    if (options_.step_time.count() > 0) {
      std::unique_lock lock(mu_);
      if (changed_.wait_for(lock, options_.step_time, [this] { return stopping_; })) return;
    }
  }
}

}  // namespace optserve
