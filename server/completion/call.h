#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "engine/engine_client.h"
#include "engine/util/metrics.h"
#include "server/access/key_quotas.h"
#include "server/access/usage_ledger.h"
#include "server/api/completion.h"
#include "server/completion/choice_assembler.h"
#include "server/completion/completion_service.h"
#include "server/completion/prompts.h"
#include "server/tracing/request_trace.h"

namespace optserve {

// What is behind a CompletionCall: where the engine's events go, and what Take makes of them. Shared by the call and,
// as its sink, by the engine, because each may end first.
//
// Threads  Begin and Fail: one thread, once. OnEvents: the engine's. Take: the transport's. Cancel: any.
class CallState : public TokenSink, public std::enable_shared_from_this<CallState> {
 public:
  struct Setup {
    EngineClient* engine = nullptr;
    const Tokenizer* tokenizer = nullptr;
    Metrics* metrics = nullptr;         // may be nullptr
    UsageLedger* ledger = nullptr;      // may be nullptr
    std::unique_ptr<QuotaLease> lease;  // may be none
    std::string id;                     // "cmpl-..."
    std::string model_name;
    RequestId first_request = 0;  // prompt i is request first_request + i
    int64_t received_ns = 0;      // monotonic, when the client's request had come whole
    int64_t start_ns = 0;         // and when it had been read
    std::function<void()> on_ready;
    std::shared_ptr<RequestTrace> trace;  // nullptr: it is not recorded
  };

  CallState(Setup setup, CompletionRequest request);
  ~CallState() override;

  const CompletionRequest& request() const { return request_; }

  // Submits a request for each prompt. `seeds`: one per prompt.
  void Begin(std::vector<PreparedPrompt> prompts, const std::vector<uint64_t>& seeds);

  // The call fails without having begun.
  void Fail(absl::Status error);

  void OnEvents(std::vector<TokenEvent> events) override;
  CompletionBatch Take();
  void Cancel();
  void NoteAnswered() const;

  // Nobody waits for it any more.
  bool has_ended() {
    const std::lock_guard lock(mu_);
    return has_ended_;
  }

 private:
  // Events that came at the same time.
  struct Arrival {
    int64_t time_ns = 0;
    std::vector<TokenEvent> events;
  };

  struct Choice {
    ChoiceAssembler assembler;
    CompletionEvent whole;      // not streamed: all of it so far
    int64_t last_token_ns = 0;  // 0: none yet
    int64_t end_ns = 0;         // 0: it goes on
  };

  struct TimedEvent {
    int64_t time_ns = 0;
    TokenEvent event;
  };

  struct PromptState {
    PreparedPrompt prompt;
    size_t num_scores = 0;           // that the answers need: of prompt tokens 1, 2, ...
    std::vector<TokenScore> scores;  // so far
    std::vector<TimedEvent> held;    // events that wait for the scores
    std::vector<Choice> choices;     // candidates, if best_of is above n
  };

  GenerateRequest MakeRequest(const PreparedPrompt& prompt, RequestId id, uint64_t seed) const;
  absl::Status SubmitAll(const std::vector<uint64_t>& seeds);
  absl::Status Process(TimedEvent timed, std::vector<CompletionEvent>& out);
  void Answer(PromptState& prompt, const TimedEvent& timed, std::vector<CompletionEvent>& out);
  void FinishWhole(std::vector<CompletionEvent>& out);
  void ObserveToken(Choice& choice, int64_t time_ns) const;

  // Ends the call, once: what the engine still does for it is cancelled, its duration is counted. `usage`: what the
  // client was told; none when it has gone, then what the engine made counts.
  void End(FinishReason reason, const std::optional<Usage>& usage);

  // What goes to the ledger, when all is over that the engine did for the call, or nobody will say more: once.
  std::optional<UsageRecord> TakeRecord(bool is_over) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Record(const std::optional<UsageRecord>& record) const;

  // Notes when something first happened to the prompts of `events`, for the trace.
  void NoteTimes(const std::vector<TokenEvent>& events, int64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RecordTrace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  int32_t num_candidates() const { return request_.best_of.value_or(request_.n); }

  const Setup setup_;
  const CompletionRequest request_;
  AnswerContext context_;

  std::mutex mu_;  // not absl::Mutex: ThreadSanitizer does not see into Debian's Abseil
  std::vector<Arrival> arrivals_ ABSL_GUARDED_BY(mu_);
  std::vector<RequestId> submitted_ ABSL_GUARDED_BY(mu_);
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  bool has_begun_ ABSL_GUARDED_BY(mu_) = false;  // from then on what follows below is Take's
  bool is_cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool has_ended_ ABSL_GUARDED_BY(mu_) = false;
  Usage spent_ ABSL_GUARDED_BY(mu_);  // by the engine's events; once it has ended, what is recorded
  int64_t engine_ns_ ABSL_GUARDED_BY(mu_) = 0;
  int32_t num_open_ ABSL_GUARDED_BY(mu_) = 0;  // answers that were submitted, and whose last event has not come
  FinishReason end_reason_ ABSL_GUARDED_BY(mu_) = FinishReason::kNone;
  bool is_recorded_ ABSL_GUARDED_BY(mu_) = false;
  int64_t end_ns_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<PromptTimes> times_ ABSL_GUARDED_BY(mu_);  // of each prompt; empty without a trace

  std::vector<PromptState> prompts_;
  Usage usage_;
  int32_t num_unfinished_ = 0;                 // candidates of all prompts
  FinishReason reason_ = FinishReason::kStop;  // kLength once an answer has ended so
  bool has_delivered_ = false;
  bool is_done_ = false;
};

}  // namespace optserve
