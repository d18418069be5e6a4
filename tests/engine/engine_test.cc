#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "engine/util/error_details.h"
#include "tests/support/fake_executor.h"

namespace optserve {
namespace {

using ::testing::HasSubstr;
using std::chrono_literals::operator""s;
using AnswerKey = std::pair<RequestId, int32_t>;

struct Answer {
  std::vector<TokenScore> tokens;
  FinishReason finish = FinishReason::kNone;
  absl::Status error;
};

// Puts answers together and lets a test wait for them.
class Collector : public TokenSink {
 public:
  void OnEvents(std::vector<TokenEvent> events) override {
    {
      const std::lock_guard lock(mu_);
      ++num_calls_;
      for (TokenEvent& event : events) {
        Answer& answer = answers_[{event.request, event.choice}];
        EXPECT_EQ(answer.finish, FinishReason::kNone) << "an event after the last one";
        if (event.token.has_value()) answer.tokens.push_back(*std::move(event.token));
        answer.finish = event.finish;
        answer.error = event.error;
        if (event.finish != FinishReason::kNone) ++num_finished_;
      }
    }
    changed_.notify_all();
    if (on_events != nullptr) on_events();
  }

  // False after a minute, so that a test that hangs says where.
  bool WaitForFinished(int count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, 60s, [&] { return num_finished_ >= count; });
  }
  bool WaitForTokens(AnswerKey key, size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, 60s, [&] { return answers_[key].tokens.size() >= count; });
  }
  Answer answer(RequestId id, int32_t choice = 0) {
    const std::lock_guard lock(mu_);
    return answers_[{id, choice}];
  }
  int num_calls() {
    const std::lock_guard lock(mu_);
    return num_calls_;
  }

  std::function<void()> on_events;

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::map<AnswerKey, Answer> answers_;
  int num_finished_ = 0;
  int num_calls_ = 0;
};

// Holds each step until the test lets it go.
class Gate {
 public:
  absl::Status Pass() {
    std::unique_lock lock(mu_);
    ++num_arrived_;
    changed_.notify_all();
    if (!changed_.wait_for(lock, 60s, [&] { return num_allowed_ > 0; })) return absl::InternalError("the gate is shut");
    --num_allowed_;
    return failure_;
  }
  void Open(int steps, absl::Status failure = absl::OkStatus()) {
    {
      const std::lock_guard lock(mu_);
      num_allowed_ += steps;
      failure_ = std::move(failure);
    }
    changed_.notify_all();
  }
  void WaitForStep(int number) {
    std::unique_lock lock(mu_);
    EXPECT_TRUE(changed_.wait_for(lock, 60s, [&] { return num_arrived_ >= number; }));
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  int num_arrived_ = 0;
  int num_allowed_ = 0;
  absl::Status failure_;
};

constexpr int kAlways = 1 << 30;

std::unique_ptr<LocalEngine> StartEngine(const FakeExecutor::Options& options, int32_t max_queue = 1024,
                                         int64_t max_queue_tokens = 1 << 20) {
  const EngineConfig config{.max_num_seqs = options.max_num_seqs,
                            .max_num_batched_tokens = options.max_num_batched_tokens,
                            .max_queue = max_queue,
                            .max_queue_tokens = max_queue_tokens};
  auto engine = LocalEngine::Start(config, std::make_unique<FakeExecutor>(options), nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

TEST(LocalEngineTest, AnswersARequest) {
  const FakeExecutor::Options options;
  const auto engine = StartEngine(options);
  const auto sink = std::make_shared<Collector>();
  const GenerateRequest request{.id = 7, .prompt = {5, 6, 7}, .max_tokens = 8, .num_choices = 2};
  ASSERT_TRUE(engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(2));
  for (int32_t choice = 0; choice < 2; ++choice) {
    EXPECT_EQ(sink->answer(7, choice).finish, FinishReason::kLength);
    EXPECT_TRUE(sink->answer(7, choice).tokens == ExpectAnswer(request, choice, options).tokens);
  }
  const EngineStats stats = engine->Stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.blocks_used, 0);
  EXPECT_EQ(stats.generated_tokens, 16);
  EXPECT_GT(stats.steps, 0);
  EXPECT_GT(stats.step_seconds, 0.0);
  EXPECT_TRUE(engine->Health().ok());
}

// Once the last step's events are out.
EngineStats StatsWithAllAccounts(const LocalEngine& engine) {
  EngineStats stats = engine.Stats();
  for (int i = 0; i < 10'000 && stats.step_account.steps != stats.steps; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stats = engine.Stats();
  }
  return stats;
}

TEST(LocalEngineTest, TheAccountSumsToTheTimeInWhichThereWasWork) {
  // Of each step's 5 ms the executor says where 2 ms went.
  class SlowExecutor : public FakeExecutor {
   public:
    using FakeExecutor::FakeExecutor;
    absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      absl::StatusOr<StepResult> result = FakeExecutor::Execute(plan);
      result->times[StepPhase::kWeights] = 2'000'000;
      result->demand.weight_bytes = 10;
      return result;
    }
  };
  auto engine = LocalEngine::Start({}, std::make_unique<SlowExecutor>(FakeExecutor::Options()), nullptr).value();
  double wall_ns = 0;
  for (const RequestId id : {1, 2}) {  // with a pause between them, which is nobody's time
    const auto sink = std::make_shared<Collector>();
    const auto start = std::chrono::steady_clock::now();
    ASSERT_TRUE(engine->Submit({.id = id, .prompt = {5}, .max_tokens = 20, .num_choices = 2}, sink).ok());
    ASSERT_TRUE(sink->WaitForFinished(2));
    wall_ns += std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const EngineStats stats = StatsWithAllAccounts(*engine);
  const StepAccount& account = stats.step_account;
  EXPECT_EQ(account.steps, stats.steps);
  EXPECT_GE(account.times.total_ns(), 5'000'000 * static_cast<int64_t>(stats.steps));
  EXPECT_LE(static_cast<double>(account.times.total_ns()), wall_ns);
  EXPECT_EQ(account.times[StepPhase::kWeights], 2'000'000 * static_cast<int64_t>(stats.steps));
  EXPECT_GE(account.times[StepPhase::kHost], 3'000'000 * static_cast<int64_t>(stats.steps));
  EXPECT_EQ(account.demand.weight_bytes, 10.0 * static_cast<double>(stats.steps));
  // Step by step it is the same: they follow each other, and sum to it.
  const std::vector<StepRecord> records = engine->RecentSteps(/*after=*/0);
  ASSERT_EQ(records.size(), stats.steps);
  StepAccount sum;
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].step, i + 1);
    EXPECT_GE(records[i].num_tokens, records[i].num_sequences);
    sum.Add(records[i].times, records[i].demand, 1);
    const int64_t last_end_ns = i > 0 ? records[i - 1].begin_ns + records[i - 1].times.total_ns() : 0;
    EXPECT_GE(records[i].begin_ns, last_end_ns);
  }
  EXPECT_EQ(sum.times.ns, account.times.ns);
  EXPECT_EQ(sum.demand.weight_bytes, account.demand.weight_bytes);
  // Each request has been there for all of its steps, and for little more.
  EXPECT_GE(stats.request_seconds * 1e9, 0.9 * static_cast<double>(account.times.total_ns()));
  EXPECT_LE(stats.request_seconds * 1e9, wall_ns);
  // Each sequence of each step has got a token.
  EXPECT_EQ(stats.request_account.times[StepPhase::kWeights], 2'000'000 * static_cast<int64_t>(stats.generated_tokens));
}

TEST(LocalEngineTest, OneCallAStepForEachSink) {
  Gate gate;
  const auto engine = StartEngine({.before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto shared = std::make_shared<Collector>();
  const auto other = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 50}, shared).ok());
  gate.WaitForStep(1);
  for (RequestId id = 2; id <= 9; ++id) {
    ASSERT_TRUE(engine->Submit({.id = id, .prompt = {5}, .max_tokens = 5}, id == 9 ? other : shared).ok());
  }
  gate.Open(6);  // the first step, then five with all of them
  gate.WaitForStep(7);
  EXPECT_EQ(shared->num_calls(), 6);
  EXPECT_EQ(other->num_calls(), 5);
  EXPECT_TRUE(other->WaitForFinished(1));
  gate.Open(kAlways);
  EXPECT_TRUE(shared->WaitForFinished(8));
}

TEST(LocalEngineTest, CancelFreesBlocksBeforeTheNextStep) {
  Gate gate;
  const auto engine = StartEngine({.num_blocks = 64, .before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5, 6, 7}, .max_tokens = 50}, sink).ok());
  gate.WaitForStep(1);
  ASSERT_TRUE(engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 50}, sink).ok());
  engine->Cancel(1);
  engine->Cancel(1);
  engine->Cancel(99);
  gate.Open(1);
  gate.WaitForStep(2);
  gate.Open(1);
  ASSERT_TRUE(sink->WaitForTokens({2, 0}, 1));
  EXPECT_EQ(sink->answer(1).finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->answer(1).tokens.size(), 1) << "the step that ran when it was cancelled";
  EXPECT_EQ(engine->Stats().blocks_used, 1);
  gate.Open(kAlways);
}

TEST(LocalEngineTest, CancelOfOneChoiceLeavesTheOthers) {
  Gate gate;
  const auto engine = StartEngine({.before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5, 6}, .max_tokens = 20, .num_choices = 3}, sink).ok());
  gate.WaitForStep(1);
  engine->CancelChoice(1, 1);
  engine->CancelChoice(1, -1);
  engine->CancelChoice(1, 3);
  gate.Open(kAlways);
  ASSERT_TRUE(sink->WaitForFinished(3));
  EXPECT_EQ(sink->answer(1, 0).finish, FinishReason::kLength);
  EXPECT_EQ(sink->answer(1, 1).finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->answer(1, 2).finish, FinishReason::kLength);
}

TEST(LocalEngineTest, FullQueueRefusesAndSaysWhenToComeBack) {
  Gate gate;
  const auto engine = StartEngine({.max_num_seqs = 1, .before_step = [&](const StepPlan&) { return gate.Pass(); }},
                                  /*max_queue=*/2);
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 4}, sink).ok());
  gate.WaitForStep(1);
  gate.Open(1);
  gate.WaitForStep(2);
  EXPECT_TRUE(engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 4}, sink).ok());
  EXPECT_TRUE(engine->Submit({.id = 3, .prompt = {5}, .max_tokens = 4}, sink).ok());
  const absl::Status refused = engine->Submit({.id = 4, .prompt = {5}, .max_tokens = 4}, sink);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(RetryAfterSeconds(refused).value_or(0), 1);
  gate.Open(kAlways);
  EXPECT_TRUE(sink->WaitForFinished(3));
  EXPECT_TRUE(engine->Submit({.id = 4, .prompt = {5}, .max_tokens = 4}, sink).ok()) << "there is room again";
}

TEST(LocalEngineTest, AFloodOfOneKeyDoesNotGetOthersRefused) {
  Gate gate;
  const auto engine = StartEngine({.max_num_seqs = 1, .before_step = [&](const StepPlan&) { return gate.Pass(); }},
                                  /*max_queue=*/8);
  const auto sink = std::make_shared<Collector>();
  int accepted = 0;
  for (RequestId id = 1; id <= 100; ++id) {
    accepted += engine->Submit({.id = id, .prompt = {5}, .max_tokens = 2, .api_key_id = "flood"}, sink).ok() ? 1 : 0;
  }
  EXPECT_LE(accepted, 10);
  for (RequestId id = 101; id <= 103; ++id) {
    EXPECT_TRUE(engine->Submit({.id = id, .prompt = {5}, .max_tokens = 2, .api_key_id = "b"}, sink).ok());
  }
  gate.Open(kAlways);
  EXPECT_TRUE(sink->WaitForFinished(accepted + 3));
}

TEST(LocalEngineTest, TheQueueIsBoundedInTokensToo) {
  Gate gate;
  const auto engine = StartEngine({.max_num_seqs = 1, .before_step = [&](const StepPlan&) { return gate.Pass(); }},
                                  /*max_queue=*/100, /*max_queue_tokens=*/50);
  const auto sink = std::make_shared<Collector>();
  const auto request = [](RequestId id, int32_t prompt_tokens) {
    return GenerateRequest{.id = id, .prompt = std::vector<int32_t>(prompt_tokens, 5), .max_tokens = 2};
  };
  EXPECT_TRUE(engine->Submit(request(1, 60), sink).ok()) << "a long prompt alone is served";
  gate.WaitForStep(1);
  gate.Open(1);
  gate.WaitForStep(2);
  EXPECT_TRUE(engine->Submit(request(2, 30), sink).ok());
  EXPECT_EQ(engine->Submit(request(3, 21), sink).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(engine->Submit(request(4, 20), sink).ok());
  gate.Open(kAlways);
  EXPECT_TRUE(sink->WaitForFinished(3));
}

TEST(LocalEngineTest, WhoCanStartAtOnceIsNotRefused) {
  const auto engine = StartEngine({.max_num_seqs = 1}, /*max_queue=*/0);
  const auto sink = std::make_shared<Collector>();
  EXPECT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 1}, sink).ok());
}

TEST(LocalEngineTest, DrainRefusesNewRequestsAndLetsOthersEnd) {
  Gate gate;
  const auto engine = StartEngine({.before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 4}, sink).ok());
  engine->Drain();
  const absl::Status refused = engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 4}, sink);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorCode(refused), "shutting_down");
  gate.Open(kAlways);
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(sink->answer(1).finish, FinishReason::kLength);
}

TEST(LocalEngineTest, AFailedStepEndsEverything) {
  Gate gate;
  const auto engine = StartEngine({.max_num_seqs = 1, .before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 4}, sink).ok());
  gate.WaitForStep(1);
  ASSERT_TRUE(engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 4, .num_choices = 2}, sink).ok());  // in the inbox
  gate.Open(1, absl::InternalError("the device is gone"));
  ASSERT_TRUE(sink->WaitForFinished(3));
  for (const AnswerKey& key : {AnswerKey(1, 0), AnswerKey(2, 0), AnswerKey(2, 1)}) {
    const Answer answer = sink->answer(key.first, key.second);
    EXPECT_EQ(answer.finish, FinishReason::kError);
    EXPECT_EQ(answer.error.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ErrorCode(answer.error), "engine_dead");
  }
  EXPECT_THAT(std::string(engine->Health().message()), HasSubstr("the device is gone"));
  const absl::Status refused = engine->Submit({.id = 3, .prompt = {5}, .max_tokens = 4}, sink);
  EXPECT_EQ(ErrorCode(refused), "engine_dead");
  EXPECT_EQ(engine->Stats().blocks_used, 0);
}

TEST(LocalEngineTest, BadRequestsAreRefusedAtOnce) {
  const auto engine = StartEngine({});
  const auto sink = std::make_shared<Collector>();
  EXPECT_EQ(engine->Submit({.id = 1, .prompt = {}}, sink).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Submit({.id = 1, .prompt = {1000}}, sink).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Stats().steps, 0);
}

TEST(LocalEngineTest, AnIdInUseIsRefusedAndFreeAfterItsLastEvent) {
  Gate gate;
  const auto engine = StartEngine({.before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 4}, sink).ok());
  EXPECT_EQ(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 4}, sink).code(), absl::StatusCode::kInvalidArgument);
  gate.Open(kAlways);
  ASSERT_TRUE(sink->WaitForFinished(1));
  const auto again = std::make_shared<Collector>();
  EXPECT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 4}, again).ok());
  EXPECT_TRUE(again->WaitForFinished(1));
}

TEST(LocalEngineTest, DeadlineIsOnTheMonotonicClock) {
  Gate gate;
  const auto engine = StartEngine({.before_step = [&](const StepPlan&) { return gate.Pass(); }});
  const auto sink = std::make_shared<Collector>();
  const int64_t now_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 50, .deadline_ns = now_ns - 1}, sink).ok());
  ASSERT_TRUE(
      engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 5, .deadline_ns = now_ns + (int64_t{1} << 50)}, sink).ok());
  gate.Open(kAlways);
  ASSERT_TRUE(sink->WaitForFinished(2));
  EXPECT_EQ(sink->answer(1).finish, FinishReason::kDeadline);
  EXPECT_EQ(sink->answer(2).finish, FinishReason::kLength);
}

TEST(LocalEngineTest, DestructionCancelsWhatIsLeft) {
  const auto sink = std::make_shared<Collector>();
  {
    const auto engine = StartEngine({.num_blocks = 1024});
    ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 1000}, sink).ok());
    ASSERT_TRUE(engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 1000}, sink).ok());
    ASSERT_TRUE(sink->WaitForTokens({1, 0}, 1));
  }
  EXPECT_TRUE(sink->WaitForFinished(2));
}

TEST(LocalEngineTest, SinksMayCallBack) {
  const auto engine = StartEngine({.num_blocks = 1024});
  const auto sink = std::make_shared<Collector>();
  std::atomic<bool> is_first = true;
  sink->on_events = [&] {
    if (!is_first.exchange(false)) return;
    engine->Cancel(1);
    EXPECT_TRUE(engine->Submit({.id = 2, .prompt = {5}, .max_tokens = 3}, sink).ok());
    EXPECT_GE(engine->Stats().steps, 1);
  };
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 1000}, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(2));
  EXPECT_EQ(sink->answer(1).finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->answer(2).finish, FinishReason::kLength);
}

TEST(LocalEngineTest, AnyThreadMaySubmitAndCancel) {
  const FakeExecutor::Options options{.num_blocks = 40, .max_num_seqs = 8};
  const auto engine = StartEngine(options, /*max_queue=*/100000);
  const auto sink = std::make_shared<Collector>();
  constexpr int kThreads = 4;
  constexpr int kRequests = 100;
  const auto request_of = [](RequestId id) {
    return GenerateRequest{.id = id, .prompt = {static_cast<int32_t>(id % 40), 6, 7}, .max_tokens = 20};
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRequests; ++i) {
        const auto id = static_cast<RequestId>(t * kRequests + i);
        EXPECT_TRUE(engine->Submit(request_of(id), sink).ok());
        if (i % 5 == 0) engine->Cancel(id);
        if (i % 7 == 0) engine->Stats();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(sink->WaitForFinished(kThreads * kRequests));
  for (RequestId id = 0; id < kThreads * kRequests; ++id) {
    const Answer answer = sink->answer(id);
    EXPECT_TRUE(id % 5 == 0 || answer.finish == FinishReason::kLength);
    const std::vector<TokenScore> expected = ExpectAnswer(request_of(id), 0, options).tokens;
    ASSERT_LE(answer.tokens.size(), expected.size());
    EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), expected.begin()));
  }
}

TEST(LocalEngineTest, AStepThatDoesNotEndIsSaidToHangAndWhoHoldsItUp) {
  Gate gate;
  FakeExecutor::Options options;
  options.before_step = [&](const StepPlan&) { return gate.Pass(); };
  const auto started =
      LocalEngine::Start({.step_timeout_seconds = 1}, std::make_unique<FakeExecutor>(options), nullptr);
  ASSERT_TRUE(started.ok());
  LocalEngine* const engine = started->get();
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5, 6}, .max_tokens = 1}, sink).ok());
  gate.WaitForStep(1);
  EXPECT_TRUE(engine->Health().ok());
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (engine->Health().ok() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(ErrorCode(engine->Health()), "engine_dead");
  EXPECT_THAT(std::string(engine->Health().message()), HasSubstr("the others wait for the executor"));
  gate.Open(kAlways);
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_TRUE(engine->Health().ok());  // it was slow, not dead
}

TEST(LocalEngineTest, NanWithSeveralPromptsEndsTheEngine) {
  const auto engine = StartEngine({.nonfinite_token = 49});
  const auto sink = std::make_shared<Collector>();
  for (RequestId id = 1; id <= 4; ++id) {
    ASSERT_TRUE(engine->Submit({.id = id, .prompt = {static_cast<int32_t>(id), 49}, .max_tokens = 1}, sink).ok());
    ASSERT_TRUE(sink->WaitForFinished(static_cast<int>(id)));
    EXPECT_EQ(sink->answer(id).error.code(), absl::StatusCode::kInternal);
  }
  while (engine->Health().ok()) std::this_thread::yield();
  EXPECT_THAT(std::string(engine->Health().message()), HasSubstr("NaN"));
}

class ExecutorThatCannotStart : public Executor {
 public:
  absl::StatusOr<StartResult> Start(const LoadProgress&) override { return absl::NotFoundError("no weights"); }
  absl::StatusOr<StepResult> Execute(const StepPlan&) override { return absl::InternalError("not started"); }
};

TEST(LocalEngineTest, StartSaysWhyItFailed) {
  const auto engine = LocalEngine::Start({}, std::make_unique<ExecutorThatCannotStart>(), nullptr);
  EXPECT_EQ(engine.status().message(), "no weights");
}

}  // namespace
}  // namespace optserve
