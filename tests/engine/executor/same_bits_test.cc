// Whatever else goes on, a request's tokens and log probabilities are, bit for bit, those that it gets alone: the real
// scheduler, a real model on the CPU backend, and random traffic with every way of being disturbed.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/scheduler/scheduler.h"
#include "tests/support/golden_models.h"

namespace optserve {
namespace {

using AnswerKey = std::pair<RequestId, int32_t>;

struct Answer {
  std::vector<TokenScore> tokens;
  std::vector<TokenScore> prompt_scores;
  FinishReason finish = FinishReason::kNone;
};

bool SameBits(const TokenScore& a, const TokenScore& b) {
  const auto same = [](const TokenLogprob& x, const TokenLogprob& y) { return x.id == y.id && x.logprob == y.logprob; };
  return a.id == b.id && a.logprob == b.logprob && std::ranges::equal(a.top, b.top, same);
}

// A model and its KV pool, which schedulers use one after the other.
class Model {
 public:
  explicit Model(const std::string& name, int32_t tensor_parallel_size = 1, int32_t steps_in_flight = 1) {
    EngineConfig config{.model_path = LoadGoldenModel(name).directory,
                        .tensor_parallel_size = tensor_parallel_size,
                        .max_num_seqs = 16,
                        .max_num_batched_tokens = 256,
                        .block_size = 4,
                        .kv_cache_bytes = int64_t{16} << 20,
                        .steps_in_flight = steps_in_flight,
                        .num_threads = tensor_parallel_size};
    executor_ = *MakeLocalExecutor(config);
    absl::StatusOr<StartResult> started = executor_->Start(nullptr);
    EXPECT_TRUE(started.ok()) << started.status();
    start_ = *std::move(started);
  }

  Executor& executor() { return *executor_; }
  const ModelInfo& info() const { return start_.model; }
  const KvBudget& kv() const { return start_.kv; }
  int32_t max_steps_in_flight() const { return start_.max_steps_in_flight; }

 private:
  std::unique_ptr<Executor> executor_;
  StartResult start_;
};

// A scheduler on the model, step by step.
class Engine {
 public:
  Engine(Model& model, SchedulerOptions options) : model_(model), scheduler_(Fit(options, model)) {}

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
  static SchedulerOptions Fit(SchedulerOptions options, const Model& model) {
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

  Model& model_;
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
    request.api_key_id = Chance(20) ? "another" : "";
    request.user = Chance(50) ? "a" : "b";
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
void ExpectAsAlone(Model& model, GenerateRequest request, const std::map<AnswerKey, Answer>& answers) {
  SCOPED_TRACE("request " + std::to_string(request.id));
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
    ASSERT_TRUE(std::equal(actual.tokens.begin(), actual.tokens.end(), expected.tokens.begin(), SameBits));
    ASSERT_TRUE(
        std::equal(actual.prompt_scores.begin(), actual.prompt_scores.end(), expected.prompt_scores.begin(), SameBits));
  }
}

struct Disturbances {
  uint64_t preemptions = 0;
  uint64_t cache_hits = 0;
};

Disturbances RunTraffic(Model& model, uint64_t seed, int num_requests) {
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
  for (const auto& [id, request] : requests) ExpectAsAlone(model, request, engine.answers());
  return {.preemptions = engine.scheduler().stats().preemptions,
          .cache_hits = engine.scheduler().stats().prefix_cache_hits};
}

class SameBitsTest : public testing::TestWithParam<std::string> {};

TEST_P(SameBitsTest, AnyTrafficGivesWhatEachRequestGetsAlone) {
  Model model(GetParam());
  Disturbances all;
  for (uint64_t seed = 1; seed <= 8 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Disturbances some = RunTraffic(model, seed, /*num_requests=*/50);
    all.preemptions += some.preemptions;
    all.cache_hits += some.cache_hits;
  }
  // Else the test would say nothing.
  EXPECT_GT(all.preemptions, 50);
  EXPECT_GT(all.cache_hits, 50);
}

INSTANTIATE_TEST_SUITE_P(Models, SameBitsTest, testing::Values("preln_d64", "postln_proj"),
                         [](const auto& info) { return info.param; });

TEST(SameBitsTest, AlsoOnTwoRanks) {
  Model model("preln_d64", /*tensor_parallel_size=*/2);
  RunTraffic(model, /*seed=*/99, /*num_requests=*/15);
}

TEST(SameBitsTest, AlsoWithStepsPlannedAhead) {
  Model model("preln_d64", /*tensor_parallel_size=*/1, /*steps_in_flight=*/2);
  EXPECT_EQ(model.max_steps_in_flight(), 2);
  for (uint64_t seed = 1; seed <= 5 && !HasFailure(); ++seed) RunTraffic(model, seed, /*num_requests=*/50);
}

}  // namespace
}  // namespace optserve
