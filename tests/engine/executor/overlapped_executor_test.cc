#include "engine/executor/overlapped_executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>

#include "engine/engine.h"
#include "tests/support/fake_executor.h"

// The engine with two steps under way: nobody can tell it from the one with one.

namespace optserve {
namespace {

class Collector : public TokenSink {
 public:
  void OnEvents(std::vector<TokenEvent> events) override {
    {
      const std::lock_guard lock(mu_);
      for (TokenEvent& event : events) {
        if (event.token.has_value()) tokens_[event.request].push_back(*std::move(event.token));
        if (event.finish != FinishReason::kNone) finished_[event.request] = event.finish;
      }
    }
    changed_.notify_all();
  }

  bool WaitForFinished(size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return finished_.size() >= count; });
  }
  bool WaitForTokens(RequestId id, size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return tokens_[id].size() >= count; });
  }
  std::vector<TokenScore> tokens(RequestId id) {
    const std::lock_guard lock(mu_);
    return tokens_[id];
  }
  FinishReason finish(RequestId id) {
    const std::lock_guard lock(mu_);
    return finished_[id];
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::map<RequestId, std::vector<TokenScore>> tokens_;
  std::map<RequestId, FinishReason> finished_;
};

std::unique_ptr<LocalEngine> StartEngine(const FakeExecutor::Options& options) {
  const EngineConfig config{.max_num_seqs = options.max_num_seqs,
                            .max_num_batched_tokens = options.max_num_batched_tokens,
                            .max_queue = 100000};
  auto engine = LocalEngine::Start(
      config, std::make_unique<OverlappedExecutor>(std::make_unique<FakeExecutor>(options)), nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

TEST(OverlappedExecutorTest, AnswersAreThoseOfOneStepAtATime) {
  const FakeExecutor::Options options{.num_blocks = 40, .max_num_seqs = 8, .max_num_batched_tokens = 32};
  const auto engine = StartEngine(options);
  const auto sink = std::make_shared<Collector>();
  std::map<RequestId, GenerateRequest> requests;
  constexpr RequestId kRequests = 200;
  for (RequestId id = 1; id <= kRequests; ++id) {
    GenerateRequest request{.id = id, .prompt = {static_cast<int32_t>(id % 40), 6, 7}, .max_tokens = 20};
    if (id % 3 == 0) request.stop_token_ids = {7, 8, 9, 10};
    if (id % 11 == 0) request.sampling.presence_penalty = 0.5f;
    requests[id] = request;
    ASSERT_TRUE(engine->Submit(request, sink).ok());
    if (id % 5 == 0) engine->Cancel(id);
  }
  ASSERT_TRUE(sink->WaitForFinished(kRequests));
  for (const auto& [id, request] : requests) {
    const ExpectedAnswer expected = ExpectAnswer(request, 0, options);
    const std::vector<TokenScore> actual = sink->tokens(id);
    if (sink->finish(id) != FinishReason::kCancelled) {
      EXPECT_EQ(sink->finish(id), expected.finish);
      EXPECT_EQ(actual.size(), expected.tokens.size());
    }
    ASSERT_LE(actual.size(), expected.tokens.size());
    EXPECT_TRUE(std::equal(actual.begin(), actual.end(), expected.tokens.begin()));
  }
  EXPECT_EQ(engine->Stats().blocks_used, 0);
  EXPECT_TRUE(engine->Health().ok());
}

TEST(OverlappedExecutorTest, AFailedStepEndsEverything) {
  std::atomic<bool> fails = false;
  const auto engine = StartEngine({.num_blocks = 1024, .before_step = [&](const StepPlan&) {
                                     return fails ? absl::InternalError("gone") : absl::OkStatus();
                                   }});
  const auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 1000}, sink).ok());
  ASSERT_TRUE(sink->WaitForTokens(1, 3));
  fails = true;
  ASSERT_TRUE(sink->WaitForFinished(1));
  EXPECT_EQ(sink->finish(1), FinishReason::kError);
  EXPECT_FALSE(engine->Health().ok());
}

TEST(OverlappedExecutorTest, DestructionCancelsWhatIsLeft) {
  const auto sink = std::make_shared<Collector>();
  {
    const auto engine = StartEngine({.num_blocks = 1024});
    ASSERT_TRUE(engine->Submit({.id = 1, .prompt = {5}, .max_tokens = 1000}, sink).ok());
    ASSERT_TRUE(sink->WaitForTokens(1, 1));
  }
  EXPECT_TRUE(sink->WaitForFinished(1));
}

}  // namespace
}  // namespace optserve
