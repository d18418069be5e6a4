#include "optserve/client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "clients/cpp/transport.h"
#include "optserve/client/error_info.h"
#include "optserve/client/score.h"

namespace optserve::client {
namespace {

using namespace std::chrono_literals;  // NOLINT: the point of them

// Answers with one status after the other, and then well.
class FailingTransport : public Transport {
 public:
  explicit FailingTransport(std::vector<absl::Status> failures, int* attempts)
      : failures_(std::move(failures)), attempts_(attempts) {}

  absl::StatusOr<v1::CompletionResponse> Complete(const v1::CompletionRequest&, const Attempt&) override {
    return Next<v1::CompletionResponse>();
  }
  absl::StatusOr<std::unique_ptr<EventSource>> Stream(const v1::CompletionRequest&, const Attempt&) override {
    return Next<std::unique_ptr<EventSource>>();
  }
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest&, const Attempt&) override {
    return Next<v1::TokenizeResponse>();
  }
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest&, const Attempt&) override {
    return Next<v1::DetokenizeResponse>();
  }
  absl::StatusOr<v1::ListModelsResponse> ListModels(const Attempt&) override { return Next<v1::ListModelsResponse>(); }
  absl::StatusOr<std::string> Metrics(const Attempt&) override { return Next<std::string>(); }
  absl::StatusOr<std::string> DebugSteps(const Attempt&) override { return Next<std::string>(); }

 private:
  template <typename T>
  absl::StatusOr<T> Next() {
    const size_t attempt = static_cast<size_t>((*attempts_)++);
    if (attempt < failures_.size()) return failures_[attempt];
    return T();
  }

  std::vector<absl::Status> failures_;
  int* attempts_;
};

constexpr RetryPolicy kFast = {.max_attempts = 3, .initial_backoff = 1ms, .max_backoff = 2ms};

struct Outcome {
  absl::Status status;
  int attempts = 0;
};

Outcome CallWith(std::vector<absl::Status> failures, const RetryPolicy& policy = kFast,
                 const CallOptions& options = {}) {
  Outcome outcome;
  const Client client(std::make_unique<FailingTransport>(std::move(failures), &outcome.attempts), policy);
  outcome.status = client.Complete(v1::CompletionRequest(), options).status();
  return outcome;
}

absl::Status Saying(absl::Status status, const ErrorInfo& info) { return WithErrorInfo(std::move(status), info); }

TEST(RetryTest, WhatMayPassIsTriedAgainUpToTheLimit) {
  const absl::Status unavailable = absl::UnavailableError("x");
  EXPECT_TRUE(CallWith({unavailable, absl::ResourceExhaustedError("y")}).status.ok());
  const Outcome given_up = CallWith({unavailable, unavailable, absl::UnavailableError("last"), unavailable});
  EXPECT_EQ(given_up.attempts, 3);
  EXPECT_EQ(given_up.status.message(), "last");
  EXPECT_EQ(CallWith({unavailable}, {.max_attempts = 1}).attempts, 1);
}

TEST(RetryTest, WhatStaysWrongIsNotTriedAgain) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnauthenticated, absl::StatusCode::kNotFound,
        absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kCancelled, absl::StatusCode::kInternal,
        absl::StatusCode::kFailedPrecondition}) {
    EXPECT_EQ(CallWith({absl::Status(code, "x")}).attempts, 1) << code;
  }
}

TEST(RetryTest, TheServersWordCounts) {
  EXPECT_EQ(CallWith({Saying(absl::InternalError("x"), {.should_retry = true})}).attempts, 2);
  EXPECT_EQ(CallWith({Saying(absl::UnavailableError("x"), {.should_retry = false})}).attempts, 1);
}

TEST(RetryTest, ThePauseIsAtLeastWhatTheServerAsksFor) {
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(CallWith({Saying(absl::UnavailableError("x"), {.retry_after = 100ms})}).status.ok());
  EXPECT_GE(std::chrono::steady_clock::now() - began, 100ms);
}

TEST(RetryTest, TooLongAPauseIsNotMade) {
  const absl::Status far = Saying(absl::UnavailableError("x"), {.retry_after = 10s});
  EXPECT_EQ(CallWith({far}, {.max_attempts = 3, .initial_backoff = 1ms, .max_retry_after = 9s}).attempts, 1);
  EXPECT_EQ(CallWith({far}, kFast, {.timeout = 5s}).attempts, 1);
}

TEST(RetryTest, EveryCallIsTriedAgain) {
  int attempts = 0;
  const Client client(
      std::make_unique<FailingTransport>(std::vector<absl::Status>(1, absl::UnavailableError("x")), &attempts), kFast);
  const auto twice = [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(std::exchange(attempts, 0), 2);
  };
  twice(client.Tokenize({}).status());
  twice(client.Detokenize({}).status());
  twice(client.ListModels().status());
  twice(client.Metrics().status());
  twice(client.DebugSteps().status());
}

TEST(ErrorInfoTest, GoesIntoAStatusAndOut) {
  const ErrorInfo info = {.http_status = 429,
                          .code = "c",
                          .param = "p[3]\xFF",
                          .request_id = "r",
                          .retry_after = 1500ms,
                          .should_retry = false};
  ErrorInfo expected = info;
  expected.param = "p[3]\uFFFD";
  EXPECT_EQ(ErrorInfoOf(WithErrorInfo(absl::UnavailableError("x"), info)), expected);
  EXPECT_EQ(ErrorInfoOf(absl::UnavailableError("x")), ErrorInfo{});
  EXPECT_TRUE(WithErrorInfo(absl::OkStatus(), info).ok());
}

TEST(ScoreTest, SumsWhatHasALogProbability) {
  v1::Choice choice;
  choice.add_logprobs()->mutable_token()->set_token("</s>");
  choice.add_logprobs()->mutable_token()->set_logprob(-1);
  choice.add_logprobs()->mutable_token()->set_logprob(-3);
  const Score score = ScoreOf(choice);
  EXPECT_EQ(score.tokens, 2);
  EXPECT_EQ(score.log_likelihood, -4);
  EXPECT_DOUBLE_EQ(score.Perplexity(), std::exp(2.0));
  EXPECT_TRUE(std::isnan(ScoreOf({}).Perplexity()));
}

}  // namespace
}  // namespace optserve::client
