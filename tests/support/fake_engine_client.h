#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine_client.h"

namespace optserve {

// An engine without a model, for tests of what is above it: makes tokens by a function, and otherwise keeps the
// promises of EngineClient (events in order, one OnEvents call per sink and step, Cancel answered by kCancelled, stop
// tokens, min_tokens, max_tokens, deadlines, prompt scores, resumed requests). Any thread may call.
class FakeEngineClient : public EngineClient {
 public:
  // The token that answer `choice` (0 .. n-1) generates as its number `index` (0, 1, ...). A function of its arguments
  // alone, so that a test can say what to expect; called on any thread.
  using TokenFunction = std::function<int32_t(const GenerateRequest& request, int32_t choice, int32_t index)>;

  // When the steps happen.
  enum class Pace {
    kAtOnce,    // within Submit, all of them before it returns
    kByHand,    // when the test calls Step()
    kOwnThread  // on a thread of the fake's, `step_time` apart
  };

  struct Options {
    Pace pace = Pace::kAtOnce;
    std::chrono::microseconds step_time{0};
    TokenFunction next_token;      // none: HashedTokens()
    int32_t prefill_chunk = 1024;  // prompt tokens of one step
    int32_t max_queue = 1 << 20;   // live requests; more are ResourceExhausted
    ModelInfo model = DefaultModel();
  };

  explicit FakeEngineClient(Options options);
  // As LocalEngine: ends what is unfinished with kCancelled.
  ~FakeEngineClient() override;

  FakeEngineClient(const FakeEngineClient&) = delete;
  FakeEngineClient& operator=(const FakeEngineClient&) = delete;

  // 4096 ids, 1024 positions, EOS and BOS 2: what deploy/demo-model has.
  static ModelInfo DefaultModel();

  // Answer j generates scripts[j % scripts.size()], then EOS for ever.
  static TokenFunction Scripted(std::vector<std::vector<int32_t>> scripts, int32_t eos = 2);

  // Ids 4 .. limit-1 by a hash of prompt, index and, unless greedy, seed and first_choice + choice. Never EOS.
  static TokenFunction HashedTokens();

  // What it says about a token: the same for every request. `top` is best first; the chosen one need not be in it.
  static TokenScore Score(int32_t id, int32_t position, int32_t num_top);

  const ModelInfo& model() const override { return options_.model; }
  absl::Status Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override;
  void Cancel(RequestId id) override;
  void CancelChoice(RequestId id, int32_t choice) override;
  void Drain() override;
  EngineStats Stats() const override;
  std::vector<StepRecord> RecentSteps(uint64_t after) const override;
  absl::Status Health() const override;

  // One step for everything that is live, on the caller's thread; false when there was nothing to do. With kByHand.
  bool Step();

  // The engine dies: every live answer ends with kError and this status, Health says so, Submit refuses.
  void Die(const absl::Status& why);

  // Submit answers this from now on; OK: as usual.
  void RefuseWith(absl::Status status);

  // All that was submitted, in order, also what was refused.
  std::vector<GenerateRequest> submitted() const;

  struct Cancellation {
    RequestId id = 0;
    std::optional<int32_t> choice;  // none: all
    bool operator==(const Cancellation&) const = default;
  };
  std::vector<Cancellation> cancellations() const;

  // What RecentSteps tells from now on.
  void SetSteps(std::vector<StepRecord> steps);

  // Answers that have neither finished nor been cancelled.
  int num_live() const;

 private:
  struct Answer {
    int32_t num_generated = 0;
    bool cancelled = false;
    bool finished = false;
  };
  struct Live {
    GenerateRequest request;
    std::shared_ptr<TokenSink> sink;
    std::vector<Answer> answers;
    int32_t num_prefilled = 0;
  };
  using Deliveries = std::map<std::shared_ptr<TokenSink>, std::vector<TokenEvent>>;

  void RunThread();
  void Advance(Live& live, std::vector<TokenEvent>& events) const;
  TokenEvent AdvanceAnswer(const Live& live, int32_t choice, Answer& answer) const;

  const Options options_;
  std::mutex step_mu_;  // held through a step and its OnEvents calls, so that events stay in order; before mu_
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::map<RequestId, Live> live_;
  std::vector<GenerateRequest> submitted_;
  std::vector<Cancellation> cancellations_;
  EngineStats stats_;
  std::vector<StepRecord> steps_;
  absl::Status refusal_;
  absl::Status death_;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace optserve
