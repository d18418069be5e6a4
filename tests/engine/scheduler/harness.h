#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/support/fake_executor.h"

namespace optserve {

// What has come for one answer so far.
struct Answer {
  std::vector<TokenScore> tokens;
  std::vector<TokenScore> prompt_scores;
  FinishReason finish = FinishReason::kNone;
  absl::Status error;
  int32_t cached_tokens = 0;
  int64_t queue_ns = 0;
  int64_t engine_ns = 0;  // of all its events
};

// The scheduler and the fake executor, a step at a time, with every invariant checked after every call. Requests are
// remembered, and answers put together from events.
class SchedulerHarness {
 public:
  explicit SchedulerHarness(FakeExecutor::Options options,
                            const std::function<void(SchedulerOptions&)>& change_options = nullptr)
      : options_(std::move(options)), executor_(options_), scheduler_(OptionsFor(options_, change_options)) {}

  void Add(const GenerateRequest& request, int64_t now_ns = 0) {
    ASSERT_TRUE(CheckRequest(request, executor_.model()).ok()) << CheckRequest(request, executor_.model());
    requests_[request.id] = request;
    scheduler_.Add(request, /*owner=*/static_cast<uint32_t>(request.id), now_ns);
    TakeEvents();
  }

  void Cancel(RequestId id) {
    scheduler_.Cancel(id);
    TakeEvents();
  }

  void CancelChoice(RequestId id, int32_t choice) {
    scheduler_.CancelChoice(id, choice);
    TakeEvents();
  }

  void set_step_ns(int64_t step_ns) { step_ns_ = step_ns; }

  // Plans, runs, commits. The plan stays for the test to look at.
  const StepPlan& Step(int64_t now_ns = 0) {
    const StepPlan& plan = scheduler_.PlanStep(now_ns);
    TakeEvents();
    if (plan.slices.empty()) return plan;
    absl::StatusOr<StepResult> result = executor_.Execute(plan);
    if (!result.ok()) {
      ADD_FAILURE() << result.status();
      std::abort();
    }
    scheduler_.Commit(std::move(*result), step_ns_);
    TakeEvents();
    return plan;
  }

  // As an engine with two steps under way does: plans one more, and commits the oldest when there are two, or nothing
  // can be planned.
  void StepAhead(int64_t now_ns = 0) {
    bool is_submitted = false;
    if (in_flight_.empty() || scheduler_.CanPlanAhead()) {
      const StepPlan& plan = scheduler_.PlanStep(now_ns);
      TakeEvents();
      is_submitted = !plan.slices.empty();
      if (is_submitted) in_flight_.push_back(&plan);
    }
    if (in_flight_.empty() || (is_submitted && in_flight_.size() < 2)) return;
    absl::StatusOr<StepResult> result = executor_.Execute(*in_flight_.front());
    in_flight_.pop_front();
    if (!result.ok()) {
      ADD_FAILURE() << result.status();
      std::abort();
    }
    scheduler_.Commit(std::move(*result));
    TakeEvents();
  }

  bool HasWork() const { return scheduler_.HasWork() || !in_flight_.empty(); }

  void RunAll(int max_steps = 100000) {
    for (int step = 0; step < max_steps && scheduler_.HasWork(); ++step) Step();
    EXPECT_FALSE(scheduler_.HasWork()) << "work is left after " << max_steps << " steps";
  }

  const Answer& answer(RequestId id, int32_t choice = 0) { return answers_[{id, choice}]; }

  // Every answer that ended by itself is what it would be alone; every other one is the beginning of it.
  void ExpectAnswersAreRight() {
    for (const auto& [key, answer] : answers_) {
      const auto& [id, choice] = key;
      SCOPED_TRACE("request " + std::to_string(id) + " choice " + std::to_string(choice));
      const ExpectedAnswer expected = ExpectAnswer(requests_.at(id), choice, options_);
      const bool is_whole = answer.finish == FinishReason::kStop || answer.finish == FinishReason::kLength;
      EXPECT_TRUE(!is_whole || answer.finish == expected.finish);
      ExpectSame(answer.tokens, expected.tokens, is_whole);
      ExpectSame(answer.prompt_scores, expected.prompt_scores, is_whole);
    }
  }

  Scheduler& scheduler() { return scheduler_; }
  FakeExecutor& executor() { return executor_; }

 private:
  static SchedulerOptions OptionsFor(const FakeExecutor::Options& executor,
                                     const std::function<void(SchedulerOptions&)>& change_options) {
    SchedulerOptions options{.num_blocks = executor.num_blocks,
                             .block_size = executor.block_size,
                             .max_num_seqs = executor.max_num_seqs,
                             .max_num_batched_tokens = executor.max_num_batched_tokens,
                             .prefix_secret = {3, 4}};
    if (change_options != nullptr) change_options(options);
    return options;
  }

  static void ExpectSame(const std::vector<TokenScore>& actual, const std::vector<TokenScore>& expected,
                         bool is_whole) {
    ASSERT_TRUE(!is_whole || actual.size() == expected.size()) << actual.size() << " of " << expected.size();
    ASSERT_LE(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) ASSERT_TRUE(actual[i] == expected[i]) << "token " << i;
  }

  void TakeEvents() {
    EXPECT_EQ(scheduler_.Violation(), "");
    for (Scheduler::Event& event : scheduler_.events()) {
      const TokenEvent& token = event.event;
      const GenerateRequest& request = requests_.at(token.request);
      Answer& answer = answers_[{token.request, token.choice}];
      EXPECT_EQ(answer.finish, FinishReason::kNone) << "an event after the last one of request " << token.request;
      EXPECT_EQ(event.owner, token.request);
      answer.engine_ns += token.engine_ns;
      if (token.token.has_value()) {
        if (answer.tokens.empty()) {
          answer.cached_tokens = token.cached_tokens;
          answer.queue_ns = token.queue_ns;
        }
        answer.tokens.push_back(*token.token);
      }
      if (!token.prompt_scores.empty()) {
        EXPECT_EQ(token.choice, 0);
        EXPECT_EQ(token.prompt_scores_begin, request.prompt_scores_sent + 1 + std::ssize(answer.prompt_scores))
            << "scores out of order";
        answer.prompt_scores.insert(answer.prompt_scores.end(), token.prompt_scores.begin(), token.prompt_scores.end());
      }
      answer.finish = token.finish;
      answer.error = token.error;
      bool is_done = true;
      for (int32_t choice = 0; choice < request.num_choices; ++choice) {
        is_done = is_done && answers_[{token.request, choice}].finish != FinishReason::kNone;
      }
      EXPECT_EQ(event.request_done, is_done);
    }
    scheduler_.events().clear();
  }

  const FakeExecutor::Options options_;
  FakeExecutor executor_;
  Scheduler scheduler_;
  std::deque<const StepPlan*> in_flight_;
  int64_t step_ns_ = 0;
  std::map<RequestId, GenerateRequest> requests_;
  std::map<std::pair<RequestId, int32_t>, Answer> answers_;
};

// `size` ids that depend on `seed`.
inline std::vector<int32_t> MakePrompt(int32_t size, uint64_t seed) {
  std::vector<int32_t> prompt(size);
  for (int32_t i = 0; i < size; ++i) prompt[i] = static_cast<int32_t>((seed * 31 + i * 17 + i * i * seed) % 47) + 3;
  return prompt;
}

}  // namespace optserve
