#include "tests/support/random_traffic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/scheduler/scheduler.h"

namespace optserve {
namespace {

using AnswerKey = std::pair<RequestId, int32_t>;

struct Answer {
  std::vector<TokenScore> tokens;
  std::vector<TokenScore> prompt_scores;
  FinishReason finish = FinishReason::kNone;
};

// Whether the same token was drawn, and how far the log probabilities are from each other at most.
struct SameScores {
  float tolerance = 0.0f;
  bool operator()(const TokenScore& a, const TokenScore& b) const {
    const auto close = [this](float x, float y) { return x == y || std::abs(x - y) <= tolerance; };
    const auto same = [&](const TokenLogprob& x, const TokenLogprob& y) {
      return (x.id == y.id || tolerance > 0.0f) && close(x.logprob, y.logprob);
    };
    return a.id == b.id && close(a.logprob, b.logprob) && std::ranges::equal(a.top, b.top, same);
  }
};

// A scheduler on the model, step by step.
class Engine {
 public:
  Engine(TrafficModel& model, SchedulerOptions options) : model_(model), scheduler_(Fit(options, model)) {}

  Scheduler& scheduler() { return scheduler_; }
  std::map<AnswerKey, Answer>& answers() { return answers_; }

  void Step(int64_t now_ns) {
    bool is_submitted = false;
    if (num_in_flight() == 0 || scheduler_.CanPlanAhead()) {
      const StepPlan& plan = scheduler_.PlanStep(now_ns);
      is_submitted = !plan.slices.empty();
      if (is_submitted) model_.executor().Submit(plan);
    }
    if (num_in_flight() > 0 && (!is_submitted || num_in_flight() == model_.max_steps_in_flight())) {
      absl::StatusOr<StepResult> result = model_.executor().Collect();
      ASSERT_TRUE(result.ok()) << result.status();
      scheduler_.Commit(*std::move(result));
    }
    TakeEvents();
  }

  void RunAll() {
    for (int64_t now_ns = 0; HasWork(); ++now_ns) Step(now_ns);
  }

  int32_t num_in_flight() const { return scheduler_.num_steps_in_flight(); }
  bool HasWork() const { return scheduler_.HasWork() || num_in_flight() > 0; }

 private:
  static SchedulerOptions Fit(SchedulerOptions options, const TrafficModel& model) {
    EXPECT_LE(options.num_blocks, model.kv().num_blocks);
    if (options.num_blocks == 0) options.num_blocks = model.kv().num_blocks;
    options.block_size = model.kv().block_size;
    options.check_invariants = true;
    return options;
  }

  void TakeEvents() {
    for (Scheduler::Event& event : scheduler_.events()) {
      Answer& answer = answers_[{event.event.request, event.event.choice}];
      if (event.event.token.has_value()) answer.tokens.push_back(*std::move(event.event.token));
      std::ranges::move(event.event.prompt_scores, std::back_inserter(answer.prompt_scores));
      answer.finish = event.event.finish;
      EXPECT_NE(answer.finish, FinishReason::kError) << event.event.error;
    }
    scheduler_.events().clear();
  }

  TrafficModel& model_;
  Scheduler scheduler_;
  std::map<AnswerKey, Answer> answers_;
};

class Traffic {
 public:
  Traffic(uint64_t seed, const ModelInfo& model) : random_(seed), model_(model) {}

  int32_t Uniform(int32_t min, int32_t max) { return std::uniform_int_distribution(min, max)(random_); }
  bool Chance(int32_t percent) { return Uniform(1, 100) <= percent; }

  GenerateRequest Request(RequestId id, int32_t longest) {
    GenerateRequest request{.id = id};
    // Few beginnings, so that prefixes are found in the cache, and any end.
    const int32_t size = Uniform(1, longest - 1);
    const int32_t beginning = Uniform(1, 3);
    const int32_t differs_from = Uniform(0, size);
    for (int32_t i = 0; i < size; ++i) {
      request.prompt.push_back(i < differs_from ? (beginning * 37 + i * 11) % (model_.vocab_size - 3) + 3
                                                : Uniform(3, model_.vocab_size - 1));
    }
    request.max_tokens = Chance(10) ? 0 : Uniform(1, std::min(12, longest - size));
    request.num_choices = Chance(25) ? Uniform(2, 5) : 1;
    if (Chance(30)) request.num_prompt_logprobs = Uniform(0, 3);
    if (Chance(50)) request.stop_token_ids = {Uniform(3, model_.vocab_size - 1), 2};
    request.api_key_id = absl::StrCat("key ", Chance(20) ? 2 : 1);
    request.user = absl::StrCat("user ", Chance(50) ? 1 : 2);
    request.batch = Chance(30);
    SamplingParams& sampling = request.sampling;
    sampling.temperature = Chance(40) ? 0.0f : 1.3f;
    if (Chance(30)) sampling.top_k = Uniform(1, 20);
    if (Chance(30)) sampling.top_p = 0.8f;
    if (Chance(20)) sampling.presence_penalty = 0.7f;
    if (Chance(20)) sampling.repetition_penalty = 1.2f;
    if (Chance(20)) sampling.no_repeat_ngram_size = Uniform(1, 3);
    if (Chance(20)) sampling.min_tokens = Uniform(0, 6);
    sampling.seed = static_cast<uint64_t>(Uniform(0, 1 << 30));
    sampling.num_logprobs = Uniform(0, 3);
    return request;
  }

 private:
  std::mt19937_64 random_;
  const ModelInfo& model_;
};

// Is `answer` the beginning of what the request gets alone, and all of it if it ended by itself?
void ExpectAsAlone(TrafficModel& model, GenerateRequest request, const std::map<AnswerKey, Answer>& answers,
                   float tolerance) {
  SCOPED_TRACE(absl::StrCat("request ", request.id));
  request.batch = false;
  Engine alone(model, {.max_num_seqs = 1, .max_num_batched_tokens = 256, .prefix_cache = false});
  alone.scheduler().Add(request, /*owner=*/0, /*now_ns=*/0);
  alone.RunAll();
  for (int32_t choice = 0; choice < request.num_choices; ++choice) {
    const Answer& actual = answers.at({request.id, choice});
    const Answer& expected = alone.answers().at({request.id, choice});
    if (actual.finish != FinishReason::kCancelled) {
      ASSERT_EQ(actual.finish, expected.finish);
      ASSERT_EQ(actual.tokens.size(), expected.tokens.size());
      ASSERT_EQ(actual.prompt_scores.size(), expected.prompt_scores.size());
    }
    ASSERT_LE(actual.tokens.size(), expected.tokens.size());
    ASSERT_LE(actual.prompt_scores.size(), expected.prompt_scores.size());
    ASSERT_TRUE(std::equal(actual.tokens.begin(), actual.tokens.end(), expected.tokens.begin(), SameScores{tolerance}));
    ASSERT_TRUE(std::equal(actual.prompt_scores.begin(), actual.prompt_scores.end(), expected.prompt_scores.begin(),
                           SameScores{tolerance}));
  }
}

}  // namespace

TrafficModel::TrafficModel(const EngineConfig& config) {
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(config);
  if (!executor.ok()) throw std::runtime_error(executor.status().ToString());
  executor_ = *std::move(executor);
  absl::StatusOr<StartResult> started = executor_->Start(nullptr);
  if (!started.ok()) throw std::runtime_error(started.status().ToString());
  start_ = *std::move(started);
}

Disturbances RunTraffic(TrafficModel& model, TrafficModel& alone, uint64_t seed, int num_requests, float tolerance) {
  Traffic traffic(seed, model.info());
  const int32_t longest = traffic.Uniform(24, 48);
  SchedulerOptions options{.num_blocks = (longest + 3) / 4 + traffic.Uniform(0, 12),
                           .max_num_seqs = traffic.Uniform(1, 12),
                           .max_num_batched_tokens = traffic.Uniform(3, 40),
                           .batch_step_tokens = traffic.Uniform(0, 20),
                           .prefix_secret = {seed, 1}};
  Engine engine(model, options);
  std::map<RequestId, GenerateRequest> requests;
  const int32_t arrival_percent = traffic.Uniform(10, 90);
  // In some of the runs time flies, so that batch work loses its patience.
  const int64_t step_ns = traffic.Chance(50) ? 1 : 1'000'000'000;
  RequestId next = 1;
  for (int64_t now_ns = 1; std::ssize(requests) < num_requests || engine.HasWork(); now_ns += step_ns) {
    while (std::ssize(requests) < num_requests && traffic.Chance(arrival_percent)) {
      const GenerateRequest request = traffic.Request(next++, longest);
      requests[request.id] = request;
      engine.scheduler().Add(request, /*owner=*/0, now_ns);
    }
    if (traffic.Chance(4)) engine.scheduler().Cancel(traffic.Uniform(1, static_cast<int32_t>(next)));
    if (traffic.Chance(4)) {
      engine.scheduler().CancelChoice(traffic.Uniform(1, static_cast<int32_t>(next)), traffic.Uniform(0, 4));
    }
    engine.Step(now_ns);
    if (testing::Test::HasFailure()) return {};
  }
  EXPECT_EQ(engine.scheduler().blocks().num_used(), 0);
  for (const auto& [id, request] : requests) ExpectAsAlone(alone, request, engine.answers(), tolerance);
  return {.preemptions = engine.scheduler().stats().preemptions,
          .cache_hits = engine.scheduler().stats().prefix_cache_hits};
}

}  // namespace optserve
