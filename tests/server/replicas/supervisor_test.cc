#include "server/replicas/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <thread>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "tests/server/replicas/engine_fixture.h"
#include "tests/support/fake_engine_client.h"
#include "tests/support/recorder.h"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int32_t kPoison = 4001;  // as a prompt's first token: the engine dies when it has generated a few tokens
constexpr int32_t kHang = 4002;    // the engine's thread stops there
constexpr int32_t kPoisonIndex = 3;

absl::StatusOr<std::unique_ptr<EngineClient>> StartFake(const EngineConfig& config, const LoadProgress& progress) {
  if (config.model_path == "broken") return InvalidArgument("broken: no tensor 'x'");
  if (config.model_path == "endless") std::this_thread::sleep_for(std::chrono::hours(1));
  for (int64_t done = 1; config.model_path == "slow" && done < 5; ++done) {
    std::this_thread::sleep_for(milliseconds(700));
    progress(done, 5);
  }
  if (progress) progress(5, 5);
  FakeEngineClient::Options options = {.pace = FakeEngineClient::Pace::kOwnThread,
                                       .step_time = milliseconds(1),
                                       .prefill_chunk = 4,
                                       .max_queue = config.max_queue};
  options.next_token = [](const GenerateRequest& request, int32_t choice, int32_t index) {
    if (request.prompt.front() == kPoison && index >= kPoisonIndex) raise(SIGSEGV);
    if (request.prompt.front() == kHang && index == kPoisonIndex) std::this_thread::sleep_for(std::chrono::hours(1));
    return FakeEngineClient::HashedTokens()(request, choice, index);
  };
  return std::make_unique<FakeEngineClient>(options);
}

// A supervisor and what it has said.
struct Running {
  std::promise<absl::Status> started;
  std::promise<absl::Status> given_up;
  Metrics metrics{"test"};
  std::unique_ptr<Supervisor> engine;  // last: its callbacks use what is above

  void KillEngine(size_t index = 0, int signal = SIGKILL) const {
    const std::vector<pid_t> pids = engine->pids();
    if (index < pids.size()) kill(pids[index], signal);
  }
};

struct Setup {
  int32_t max_deaths = 3;
  int32_t num_replicas = 1;
  int32_t step_timeout_seconds = 10;
  int32_t load_timeout_seconds = 300;
  const char* model = "good";
};

std::unique_ptr<Running> Start(const Setup& setup) {
  auto running = std::make_unique<Running>();
  Supervisor::Options options;
  options.config.model_path = setup.model;
  options.config.step_timeout_seconds = setup.step_timeout_seconds;
  options.load_timeout_seconds = setup.load_timeout_seconds;
  options.num_replicas = setup.num_replicas;
  options.max_deaths = setup.max_deaths;
  options.on_started = [r = running.get()](const absl::Status& status) { r->started.set_value(status); };
  options.on_given_up = [r = running.get()](const absl::Status& why) { r->given_up.set_value(why); };
  options.metrics = &running->metrics;
  running->engine = std::make_unique<Supervisor>(std::move(options));
  return running;
}

std::unique_ptr<Running> StartReady(const Setup& setup = {}) {
  auto running = Start(setup);
  EXPECT_EQ(running->started.get_future().get(), absl::OkStatus());
  return running;
}

bool WaitUntil(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

TEST(SupervisorTest, AKilledEngineIsReplacedAndNobodyIsToldAnythingElse) {
  const auto running = StartReady({.max_deaths = 100});
  const auto sink = std::make_shared<Recorder>();
  std::vector<GenerateRequest> requests;
  for (RequestId id = 1; id <= 4; ++id) requests.push_back(HashedRequest(id, 300, static_cast<int32_t>(id)));
  for (const GenerateRequest& request : requests) ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  for (size_t kills = 1; kills <= 5; ++kills) {
    ASSERT_TRUE(sink->WaitForEvents(kills * 300));
    running->KillEngine();
  }
  ASSERT_TRUE(sink->WaitForFinished(10));
  for (const GenerateRequest& request : requests) ExpectUndisturbed(*sink, request);
  EXPECT_THAT(running->metrics.Render(running->engine->Stats(), true),
              Not(HasSubstr("optserve_engine_restarts_total 0\n")));
  EXPECT_TRUE(running->engine->Health().ok());
}

TEST(SupervisorTest, PromptScoresComeOnceAndWhole) {
  const auto running = StartReady({.max_deaths = 100});
  const auto sink = std::make_shared<Recorder>();
  GenerateRequest request = HashedRequest(1, 5, 2);
  request.num_prompt_logprobs = 0;
  while (request.prompt.size() < 200) request.prompt.push_back(static_cast<int32_t>(request.prompt.size()));
  ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(10));  // of about fifty
  running->KillEngine();
  ASSERT_TRUE(sink->WaitForFinished(2));
  int32_t next = 1;
  for (const TokenEvent& event : sink->events()) {
    if (event.prompt_scores.empty()) continue;
    ASSERT_EQ(event.prompt_scores_begin, next);
    for (const TokenScore& score : event.prompt_scores) {
      EXPECT_EQ(score.id, request.prompt[static_cast<size_t>(next++)]);
    }
  }
  EXPECT_EQ(next, 200);
  ExpectUndisturbed(*sink, request);
}

TEST(SupervisorTest, AnAnswerThatWasCancelledStaysCancelled) {
  const auto running = StartReady({.max_deaths = 100});
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 400, 3), sink).ok());
  ASSERT_TRUE(running->engine->Submit(HashedRequest(2, 400), sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(40));
  running->KillEngine(0, SIGSTOP);
  running->engine->CancelChoice(1, 1);
  running->engine->Cancel(2);
  running->engine->Cancel(99);  // unknown: ignored
  running->KillEngine(0, SIGKILL);
  ASSERT_TRUE(sink->WaitForFinished(4));
  EXPECT_EQ(sink->finish(1, 1), FinishReason::kCancelled);
  EXPECT_EQ(sink->finish(2), FinishReason::kCancelled);
  EXPECT_EQ(sink->tokens(1, 0).size(), 400u);
  EXPECT_EQ(sink->tokens(1, 2).size(), 400u);
  ASSERT_TRUE(running->engine->Submit(HashedRequest(3, 300, 3), sink).ok());
  ASSERT_TRUE(WaitUntil([&] { return sink->tokens(3, 2).size() > 5; }));
  running->KillEngine();
  ASSERT_TRUE(WaitUntil([&, seen = sink->tokens(3, 2).size()] { return sink->tokens(3, 2).size() > seen + 50; }));
  running->engine->CancelChoice(3, 1);  // each answer is a request of its own now
  ASSERT_TRUE(sink->WaitForFinished(7));
  EXPECT_EQ(sink->finish(3, 1), FinishReason::kCancelled);
  EXPECT_EQ(sink->tokens(3, 0).size(), 300u);
  EXPECT_EQ(sink->tokens(3, 2).size(), 300u);
}

TEST(SupervisorTest, AnEngineThatIsStoppedOrMakesNoStepIsReplaced) {
  const auto running = StartReady({.max_deaths = 100, .step_timeout_seconds = 1});
  const auto sink = std::make_shared<Recorder>();
  const GenerateRequest request = HashedRequest(1, 500);
  ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(10));
  running->KillEngine(0, SIGSTOP);
  ASSERT_TRUE(sink->WaitForFinished(1));
  ExpectUndisturbed(*sink, request);

  GenerateRequest hangs = HashedRequest(2, kPoisonIndex + 1);
  hangs.prompt.front() = kHang;
  ASSERT_TRUE(running->engine->Submit(hangs, sink).ok());
  ASSERT_TRUE(WaitUntil([&] { return sink->tokens(2).size() == kPoisonIndex; }));
  const pid_t hung = running->engine->pids().at(0);
  ASSERT_TRUE(WaitUntil([&] {
    const std::vector<pid_t> pids = running->engine->pids();
    return !pids.empty() && pids[0] != hung;
  }));
}

TEST(SupervisorTest, ThreeDeathsInTenMinutesAreTheEnd) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  auto given_up = running->given_up.get_future();
  std::set<pid_t> killed;
  while (given_up.wait_for(milliseconds(1)) != std::future_status::ready) {
    const std::vector<pid_t> pids = running->engine->pids();
    if (pids.empty() || !running->engine->Health().ok() || !killed.insert(pids[0]).second) continue;
    if (killed.size() == 3) {
      ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 1000), sink).ok());
      ASSERT_TRUE(sink->WaitForEvents(1));
    }
    kill(pids[0], SIGKILL);
  }
  EXPECT_EQ(killed.size(), 3u);
  EXPECT_THAT(std::string(given_up.get().message()), HasSubstr("killed by signal 9"));
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(sink->finish(1), FinishReason::kError);
  EXPECT_EQ(ErrorCode(sink->events().back().error), "engine_dead");
  EXPECT_EQ(running->engine->Health().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(running->engine->Submit(HashedRequest(2, 5), sink), running->engine->Health());
}

TEST(SupervisorTest, ARequestThatKillsTheEngineFailsAlone) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  std::vector<GenerateRequest> others;
  for (RequestId id = 1; id <= 4; ++id) others.push_back(HashedRequest(id, 400, 2));
  for (const GenerateRequest& request : others) ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  GenerateRequest poison = HashedRequest(5, 20, 2);
  poison.prompt.front() = kPoison;
  ASSERT_TRUE(running->engine->Submit(poison, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(10));
  for (const GenerateRequest& request : others) ExpectUndisturbed(*sink, request);
  EXPECT_EQ(sink->finish(5, 0), FinishReason::kError);
  EXPECT_EQ(sink->finish(5, 1), FinishReason::kError);
  for (const TokenEvent& event : sink->events()) {
    if (event.finish == FinishReason::kError) {
      EXPECT_EQ(ErrorCode(event.error), "request_kills_engine");
    }
  }
  // Its deaths are forgiven: the next poison does not end the server either.
  poison.id = 6;
  ASSERT_TRUE(running->engine->Submit(poison, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(12));
  ASSERT_TRUE(running->engine->Submit(HashedRequest(7, 5), sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(13));
  ExpectUndisturbed(*sink, HashedRequest(7, 5));
}

TEST(SupervisorTest, AnEngineThatCannotStartSaysWhyAndIsNotTriedAgain) {
  const auto running = Start({.model = "broken"});
  EXPECT_EQ(running->started.get_future().get(), InvalidArgument("broken: no tensor 'x'"));
  EXPECT_FALSE(running->engine->Health().ok());
  EXPECT_TRUE(WaitUntil([&] { return running->engine->pids().empty(); }));
}

TEST(SupervisorTest, ReplicasShareTheWorkAndTakeOverFromEachOther) {
  const auto running = StartReady({.max_deaths = 100, .num_replicas = 2});
  ASSERT_EQ(running->engine->pids().size(), 2u);
  const auto sink = std::make_shared<Recorder>();
  std::vector<GenerateRequest> requests;
  for (RequestId id = 1; id <= 8; ++id) requests.push_back(HashedRequest(id, 400, 2));
  for (const GenerateRequest& request : requests) ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(200));
  EXPECT_EQ(running->engine->Stats().running, 16);
  running->KillEngine(0);
  ASSERT_TRUE(sink->WaitForEvents(2000));
  running->KillEngine(1);
  ASSERT_TRUE(sink->WaitForFinished(16));
  for (const GenerateRequest& request : requests) ExpectUndisturbed(*sink, request);
}

TEST(SupervisorTest, DeadlinesPassAlsoWhileNobodyServes) {
  const auto running = StartReady({.max_deaths = 100});
  const auto sink = std::make_shared<Recorder>();
  running->KillEngine(0, SIGSTOP);  // which no engine can tell from a step that takes long
  GenerateRequest request = HashedRequest(1, 50);
  const auto deadline = std::chrono::steady_clock::now() + milliseconds(200);
  request.deadline_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
  ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  std::this_thread::sleep_until(deadline);
  running->KillEngine(0, SIGKILL);
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(sink->finish(1), FinishReason::kDeadline);
}

TEST(SupervisorTest, ALoadWithoutProgressIsEnded) {
  const auto begin = std::chrono::steady_clock::now();
  const auto running = Start({.load_timeout_seconds = 1, .model = "endless"});
  const absl::Status status = running->started.get_future().get();
  EXPECT_THAT(std::string(status.message()), HasSubstr("made no progress for 1."));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(8));
}

TEST(SupervisorTest, ALoadThatIsSlowButGoesOnIsLeftAlone) { StartReady({.load_timeout_seconds = 2, .model = "slow"}); }

TEST(SupervisorTest, WhatIsUnfinishedAtTheEndIsToldSo) {
  auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 1000), sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(5));
  running->engine->Drain();
  EXPECT_EQ(ErrorCode(running->engine->Submit(HashedRequest(2, 5), sink)), "shutting_down");
  running->engine.reset();
  EXPECT_EQ(sink->finish(1), FinishReason::kError);
  EXPECT_EQ(ErrorCode(sink->events().back().error), "shutting_down");
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) { return optserve::RunTestsOrEngine(argc, argv, optserve::StartFake); }
