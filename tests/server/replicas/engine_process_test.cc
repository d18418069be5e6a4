#include "server/replicas/engine_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <set>
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// As a prompt's first token.
constexpr int32_t kDyingWish = 4001;  // the engine reports its own death
constexpr int32_t kDeaf = 4002;       // the engine process hears nothing any more, and can still speak

constexpr int kChannel = 3;  // the engine process's descriptor

// Runs in the engine process; the model's path says what to be.
absl::StatusOr<std::unique_ptr<EngineClient>> StartFake(const EngineConfig& config, const LoadProgress& progress) {
  if (config.model_path == "broken") return WithErrorCode(InvalidArgument("broken: no tensor 'x'"), "some_code");
  if (config.model_path == "kills") raise(SIGKILL);
  if (config.model_path == "endless") std::this_thread::sleep_for(std::chrono::hours(1));
  if (config.model_path == "loads") {
    for (int64_t done = 0; done <= 1000; ++done) progress(done, 1000);
  }
  FakeEngineClient::Options options = {
      .pace = FakeEngineClient::Pace::kOwnThread, .step_time = milliseconds(1), .max_queue = config.max_queue};
  // The engine outlives its thread, which is what calls this.
  const milliseconds time_to_end{config.model_path == "ends slowly" ? 30 : 0};
  const std::shared_ptr<FakeEngineClient*> engine(new FakeEngineClient*(nullptr), [=](FakeEngineClient** pointer) {
    std::this_thread::sleep_for(time_to_end);
    delete pointer;
  });
  options.next_token = [engine](const GenerateRequest& request, int32_t choice, int32_t index) {
    if (request.prompt.front() == kDyingWish && index == 3) {
      std::thread([engine] { (*engine)->Die(Internal("device 0: illegal access")); }).detach();
    }
    if (request.prompt.front() == kDeaf && index == 3) shutdown(kChannel, SHUT_RD);
    return FakeEngineClient::HashedTokens()(request, choice, index);
  };
  auto client = std::make_unique<FakeEngineClient>(options);
  client->SetSteps({{.step = 1, .num_tokens = 10}, {.step = 2, .num_tokens = 20}});
  *engine = client.get();
  return client;
}

// An engine process and what it has said.
struct Running {
  std::promise<absl::Status> started;
  std::promise<absl::Status> died;
  std::vector<std::pair<int64_t, int64_t>> progress;
  Metrics metrics{"test"};
  std::unique_ptr<EngineProcess> engine;  // last: its callbacks use what is above
};

std::unique_ptr<Running> Start(EngineConfig config) {
  auto running = std::make_unique<Running>();
  auto engine = EngineProcess::Start({
      .config = std::move(config),
      .progress = [r = running.get()](int64_t done, int64_t total) { r->progress.emplace_back(done, total); },
      .on_started = [r = running.get()](const absl::Status& status) { r->started.set_value(status); },
      .on_death = [r = running.get()](const absl::Status& why) { r->died.set_value(why); },
      .metrics = &running->metrics,
  });
  EXPECT_TRUE(engine.ok()) << engine.status();
  running->engine = std::move(engine).value();
  return running;
}

std::unique_ptr<Running> StartReady(EngineConfig config = {.model_path = "good"}) {
  auto running = Start(std::move(config));
  EXPECT_EQ(running->started.get_future().get(), absl::OkStatus());
  return running;
}

TEST(EngineProcessTest, TokensAreThoseOfTheSameEngineInThisProcess) {
  const auto running = StartReady();
  EXPECT_EQ(running->engine->model().max_model_len, FakeEngineClient::DefaultModel().max_model_len);
  const auto sink = std::make_shared<Recorder>();
  const GenerateRequest request = HashedRequest(1, 20, 2);
  ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(2));
  ExpectUndisturbed(*sink, request);
  EXPECT_TRUE(running->engine->Health().ok());
}

TEST(EngineProcessTest, ASinkThatRequestsShareIsCalledOnceAStep) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  for (RequestId id = 1; id <= 8; ++id) ASSERT_TRUE(running->engine->Submit(HashedRequest(id, 100), sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(8));
  EXPECT_EQ(sink->events().size(), 800u);
  EXPECT_LT(sink->calls(), 400);  // about 100, if the requests overlap as they should
}

TEST(EngineProcessTest, StepsCrossOneByOneAndOnce) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 50), sink).ok());  // 50 frames, each with what is new
  ASSERT_TRUE(sink->WaitForFinished(1));
  const std::vector<StepRecord> steps = running->engine->RecentSteps(/*after=*/0);
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0].num_tokens, 10);
  EXPECT_EQ(steps[1].step, 2u);
  EXPECT_EQ(running->engine->RecentSteps(/*after=*/1).size(), 1u);
}

TEST(EngineProcessTest, LoadProgressIsReportedUpToTheEnd) {
  const auto running = StartReady({.model_path = "loads"});
  ASSERT_FALSE(running->progress.empty());
  EXPECT_LT(running->progress.size(), 100u);  // of a thousand: not every call is worth a frame
  EXPECT_EQ(running->progress.back(), (std::pair<int64_t, int64_t>(1000, 1000)));
  EXPECT_TRUE(std::is_sorted(running->progress.begin(), running->progress.end()));
}

TEST(EngineProcessTest, AnEngineThatCannotStartSaysWhyAsInThisProcess) {
  const auto running = Start({.model_path = "broken"});
  EXPECT_EQ(running->started.get_future().get(), WithErrorCode(InvalidArgument("broken: no tensor 'x'"), "some_code"));
  EXPECT_FALSE(running->engine->Health().ok());
}

TEST(EngineProcessTest, AProcessThatDiesWhileLoadingIsAnErrorOfStarting) {
  const auto running = Start({.model_path = "kills"});
  const absl::Status status = running->started.get_future().get();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("killed by signal 9 (Killed) while it loaded"));
}

TEST(EngineProcessTest, AKilledEngineEndsEveryUnfinishedAnswerAndRefusesMore) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 5), sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(1));
  ASSERT_TRUE(running->engine->Submit(HashedRequest(2, 1000, 3), sink).ok());
  ASSERT_TRUE(running->engine->Submit(HashedRequest(3, 1000), sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(50));
  running->engine->CancelChoice(2, 1);
  ASSERT_TRUE(sink->WaitForFinished(2));
  kill(running->engine->pid(), SIGKILL);
  ASSERT_TRUE(sink->WaitForFinished(5));
  EXPECT_EQ(sink->finish(1), FinishReason::kLength);
  EXPECT_EQ(sink->finish(2, 1), FinishReason::kCancelled);
  for (const auto& [request, choice] : {std::pair(2, 0), std::pair(2, 2), std::pair(3, 0)}) {
    EXPECT_EQ(sink->finish(static_cast<RequestId>(request), choice), FinishReason::kError);
  }
  EXPECT_EQ(ErrorCode(sink->events().back().error), "engine_dead");

  EXPECT_THAT(std::string(running->died.get_future().get().message()), HasSubstr("killed by signal 9"));
  const absl::Status refusal = running->engine->Submit(HashedRequest(4, 5), sink);
  EXPECT_EQ(refusal.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorCode(refusal), "engine_dead");
  EXPECT_TRUE(RetryAfterSeconds(refusal).has_value());
  EXPECT_EQ(running->engine->Health(), refusal);
  EXPECT_EQ(running->engine->Stats().running, 0);
}

TEST(EngineProcessTest, AnEngineThatFailsEndsItsProcessAndLeavesItsReason) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  GenerateRequest request = HashedRequest(1, 500);
  request.prompt.front() = kDyingWish;
  ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(running->died.get_future().get(), Internal("device 0: illegal access"));
  EXPECT_THAT(std::string(running->engine->Health().message()), HasSubstr("ended with exit code 1"));
  EXPECT_EQ(ErrorCode(running->engine->Health()), "engine_dead");
}

// It ends, and with it its engine, which then drops its requests: that is the engine's death and not their end.
TEST(EngineProcessTest, OneThatHearsNothingAnyMoreIsADeadOneThatSaysWhy) {
  const auto running = StartReady({.model_path = "ends slowly"});
  const auto sink = std::make_shared<Recorder>();
  GenerateRequest request = HashedRequest(1, 500);
  request.prompt.front() = kDeaf;
  ASSERT_TRUE(running->engine->Submit(request, sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(sink->finish(1), FinishReason::kError);
  EXPECT_EQ(ErrorCode(sink->events().back().error), "engine_dead");
  EXPECT_THAT(std::string(running->died.get_future().get().message()), HasSubstr("does not hear the front end"));
}

TEST(EngineProcessTest, CancelEndsAllAnswersAndFreesTheirBlocks) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 1000, 2), sink).ok());
  ASSERT_TRUE(sink->WaitForEvents(10));
  EXPECT_EQ(running->engine->Stats().running, 2);
  running->engine->Cancel(1);
  running->engine->Cancel(99);  // unknown: ignored
  ASSERT_TRUE(sink->WaitForFinished(2));
  EXPECT_EQ(sink->finish(1, 0), FinishReason::kCancelled);
  EXPECT_EQ(sink->finish(1, 1), FinishReason::kCancelled);
  const auto deadline = std::chrono::steady_clock::now() + seconds(5);
  while (running->engine->Stats().running != 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(running->engine->Stats().running, 0);
  EXPECT_THAT(running->metrics.Render(running->engine->Stats(), true),
              Not(HasSubstr("optserve_step_seconds_count 0\n")));
}

TEST(EngineProcessTest, WhatOnlyTheEngineRefusesComesAsAnEventOfEachAnswer) {
  const auto running = StartReady({.model_path = "good", .max_queue = 1});
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 1000), sink).ok());
  ASSERT_TRUE(running->engine->Submit(HashedRequest(2, 10, 2), sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(2));
  EXPECT_EQ(sink->finish(2, 0), FinishReason::kError);
  EXPECT_EQ(sink->finish(2, 1), FinishReason::kError);
  for (const TokenEvent& event : sink->events()) {
    if (event.request == 1) continue;
    EXPECT_EQ(event.error.code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(EngineProcessTest, ARequestThatTheModelCannotServeIsRefusedAtOnce) {
  const auto running = StartReady();
  const auto sink = std::make_shared<Recorder>();
  EXPECT_EQ(running->engine->Submit(HashedRequest(1, 1 << 20), sink).code(), absl::StatusCode::kInvalidArgument);
  running->engine->Drain();
  EXPECT_EQ(ErrorCode(running->engine->Submit(HashedRequest(2, 1), sink)), "shutting_down");
  EXPECT_TRUE(sink->events().empty());
}

TEST(EngineProcessTest, TheProcessInheritsNothingButItsSocket) {
  const int inheritable = open("/dev/null", O_RDONLY);  // as sockets of libraries are, which set no close-on-exec
  ASSERT_GE(inheritable, 0);
  const auto running = StartReady();
  std::set<std::string> descriptors;
  std::map<std::string, std::string> targets;
  const std::filesystem::path folder = "/proc/" + std::to_string(running->engine->pid()) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    descriptors.insert(entry.path().filename());
    targets[entry.path().filename()] = std::filesystem::read_symlink(entry.path());
  }
  EXPECT_THAT(descriptors, ElementsAre("0", "1", "2", "3"));
  EXPECT_EQ(targets["0"], "/dev/null");
  EXPECT_EQ(targets["1"], targets["2"]);
  EXPECT_THAT(targets["3"], HasSubstr("socket:"));
  close(inheritable);
}

TEST(EngineProcessTest, SignalsForTheWholeProcessGroupLeaveTheEngineAlone) {
  const auto running = StartReady();
  kill(running->engine->pid(), SIGINT);
  kill(running->engine->pid(), SIGTERM);
  const auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(running->engine->Submit(HashedRequest(1, 50), sink).ok());
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(sink->finish(1), FinishReason::kLength);
}

TEST(EngineProcessTest, TheProcessEndsWithItsClientAlsoWhileItLoads) {
  for (const char* model : {"good", "endless"}) {
    auto running = Start({.model_path = model});
    if (std::string(model) == "good") {
      ASSERT_TRUE(running->started.get_future().get().ok());
    }
    const pid_t pid = running->engine->pid();
    const auto begin = std::chrono::steady_clock::now();
    running->engine.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(1900)) << model;  // at 2 s it would be killed
    EXPECT_EQ(kill(pid, 0), -1) << model;
  }
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) { return optserve::RunTestsOrEngine(argc, argv, optserve::StartFake); }
