#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "optserve/client/client.h"
#include "optserve/client/error_info.h"
#include "tests/clients/cpp/scripted_server.h"
#include "tests/clients/cpp/stream_of.h"

// The client over HTTP against servers that say and do what these tests want, most of it wrong.

namespace optserve::client {
namespace {

using namespace std::chrono_literals;  // NOLINT: the point of them
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kGood[] = R"({"choices":[{"index":0,"text":"good","finish_reason":"stop"}]})";
constexpr RetryPolicy kFast = {.max_attempts = 3, .initial_backoff = 1ms, .max_backoff = 5ms};

ScriptedServer::Script Answers(std::string answer) {
  return [answer](ServerSide& side) {
    while (!side.ReadRequest().empty() && side.Send(answer)) {
    }
  };
}

ScriptedServer::Script AnswersOnce(std::string answer) {
  return [answer](ServerSide& side) {
    side.ReadRequest();
    side.Send(answer);
  };
}

std::unique_ptr<Client> ClientOf(const ScriptedServer& server, ClientOptions options = {.retry = kFast}) {
  options.address = server.address();
  return Client::Create(options).value();
}

v1::CompletionRequest Request() {
  v1::CompletionRequest request;
  request.add_prompt()->set_text("a");
  return request;
}

std::string TextOf(const absl::StatusOr<v1::CompletionResponse>& answer) {
  return answer.ok() ? answer->choices(0).text() : answer.status().ToString();
}

TEST(HttpClientTest, SendsItsRequestWhole) {
  std::promise<std::string> seen;
  ScriptedServer server({[&](ServerSide& side) {
    seen.set_value(side.ReadRequest());
    side.Send(Answer("200 OK", kGood));
  }});
  const auto client = ClientOf(server, {.api_key = "sk-1", .retry = kFast});
  EXPECT_EQ(TextOf(client->Complete(Request(), {.request_id = "mine"})), "good");
  const std::string request = seen.get_future().get();
  EXPECT_THAT(request, ::testing::StartsWith("POST /v1/completions HTTP/1.1\r\n"));
  EXPECT_THAT(request, HasSubstr("Host: " + server.address().substr(7) + "\r\n"));
  EXPECT_THAT(request, HasSubstr("Authorization: Bearer sk-1\r\n"));
  EXPECT_THAT(request, HasSubstr("x-request-id: mine\r\n"));
  EXPECT_THAT(request, HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_THAT(request, ::testing::EndsWith("\r\n\r\n{\"prompt\":[\"a\"]}"));
}

TEST(HttpClientTest, AConnectionServesManyCalls) {
  ScriptedServer server({Answers(Answer("200 OK", kGood))});
  const auto client = ClientOf(server);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(TextOf(client->Complete(Request())), "good");
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClientTest, AKeptConnectionThatWasClosedIsNoFailure) {
  ScriptedServer server({AnswersOnce(Answer("200 OK", kGood))});  // says keep-alive, and closes
  const auto client = ClientOf(server, {.retry = {.max_attempts = 1}});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(TextOf(client->Complete(Request())), "good");
  EXPECT_EQ(server.connections(), 5);
}

TEST(HttpClientTest, ConnectionCloseIsObeyed) {
  ScriptedServer server({Answers(Answer("200 OK", kGood, "Connection: close\r\n"))});
  const auto client = ClientOf(server);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(TextOf(client->Complete(Request())), "good");
  EXPECT_EQ(server.connections(), 2);
}

// A body without a length ends with its connection, of which the next call must not expect anything.
TEST(HttpClientTest, AConnectionWhoseEndWasTheBodysIsNotKept) {
  ScriptedServer server({[](ServerSide& side) {
    side.ReadRequest();
    side.Send("HTTP/1.1 200 OK\r\n\r\n" + std::string(kGood));
    side.EndSending();
    side.WaitForEnd();
  }});
  const auto client = ClientOf(server);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(client->Complete(Request(), {.timeout = 5s}).ok());
  EXPECT_EQ(server.connections(), 3);
}

TEST(HttpClientTest, TakesChunkedAnswers) {
  const std::string body = kGood;
  char size[16];
  std::snprintf(size, sizeof(size), "%zx", body.size() - 5);
  ScriptedServer server({Answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + body.substr(0, 5) +
                                 "\r\n" + size + "\r\n" + body.substr(5) + "\r\n0\r\n\r\n")});
  EXPECT_EQ(TextOf(ClientOf(server)->Complete(Request())), "good");
}

TEST(HttpClientTest, WaitsAsLongAsRetryAfterSays) {
  const std::string busy =
      Answer("429 Too Many Requests",
             R"({"error":{"message":"busy","type":"rate_limit_exceeded","code":"rate_limit_exceeded"}})",
             "Retry-After: 1\r\nx-request-id: r7\r\n");
  ScriptedServer server({[&](ServerSide& side) {
    side.ReadRequest();
    side.Send(busy);
    side.ReadRequest();
    side.Send(Answer("200 OK", kGood));
  }});
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(TextOf(ClientOf(server)->Complete(Request())), "good");
  EXPECT_GE(std::chrono::steady_clock::now() - began, 1s);
}

TEST(HttpClientTest, TheLastErrorSaysWhatTheServerSaid) {
  const std::string busy =
      Answer("429 Too Many Requests",
             R"({"error":{"message":"busy","type":"rate_limit_exceeded","code":"rate_limit_exceeded"}})",
             "Retry-After: 2\r\nx-request-id: r7\r\n");
  ScriptedServer server({Answers(busy)});
  const absl::Status status = ClientOf(server, {.retry = {.max_attempts = 1}})->Complete(Request()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "busy");
  EXPECT_EQ(ErrorInfoOf(status),
            (ErrorInfo{.http_status = 429, .code = "rate_limit_exceeded", .request_id = "r7", .retry_after = 2000ms}));
}

TEST(HttpClientTest, RetryAfterMayBeADate) {
  ScriptedServer server(
      {Answers(Answer("503 Service Unavailable", "", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n"))});
  const absl::Status status = ClientOf(server)->Complete(Request()).status();  // too long a pause, so no second attempt
  EXPECT_GT(ErrorInfoOf(status).retry_after.value_or(0ms), 24h);
  ScriptedServer nonsense({Answers(Answer("503 Service Unavailable", "", "Retry-After: soon\r\n"))});
  EXPECT_EQ(ErrorInfoOf(ClientOf(nonsense)->Complete(Request()).status()).retry_after, std::nullopt);
}

TEST(HttpClientTest, ARefusedConnectionIsTriedAgain) {
  std::string address;
  {
    ScriptedServer gone({Answers("")});
    address = gone.address();
  }
  const auto client =
      Client::Create({.address = address, .retry = {.max_attempts = 4, .initial_backoff = 20ms, .max_backoff = 20ms}})
          .value();
  const absl::Status status = client->Complete(Request()).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("Connection refused"));
}

TEST(HttpClientTest, AStreamIsItsEventsInOrder) {
  ScriptedServer server(
      {AnswersOnce(std::string(kStreamHead) + ": ping\n\n" + Event("a") + Event("b") + "data: [DONE]\n\n")});
  const Streamed streamed = StreamOf(*ClientOf(server));
  EXPECT_TRUE(streamed.status.ok()) << streamed.status;
  EXPECT_THAT(streamed.texts, ElementsAre("a", "b"));
}

TEST(HttpClientTest, AStreamLeavesItsConnectionForTheNextCall) {
  const std::string events = Event("a") + "data: [DONE]\n\n";
  ScriptedServer server({Answers("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: " +
                                 std::to_string(events.size()) + "\r\n\r\n" + events)});
  const auto client = ClientOf(server);
  for (int i = 0; i < 3; ++i) EXPECT_THAT(StreamOf(*client).texts, ElementsAre("a"));
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClientTest, AnErrorInsideAStreamEndsIt) {
  ScriptedServer server({AnswersOnce(
      std::string(kStreamHead) + Event("a") +
      "data: "
      "{\"error\":{\"message\":\"gone\",\"type\":\"service_unavailable\",\"param\":null,\"code\":\"engine_dead\"}}\n\n"
      "data: [DONE]\n\n")});
  const Streamed streamed = StreamOf(*ClientOf(server));
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_TRUE(absl::IsUnavailable(streamed.status));
  EXPECT_EQ(ErrorInfoOf(streamed.status).code, "engine_dead");
  EXPECT_EQ(server.connections(), 1);  // what a reader has seen is not asked for again
}

TEST(HttpClientTest, AStreamThatFailsBeforeItsFirstEventIsTriedAgain) {
  ScriptedServer server({AnswersOnce(std::string(kStreamHead)), [](ServerSide& side) { side.BreakOff(); },
                         AnswersOnce(std::string(kStreamHead) + Event("a") + "data: [DONE]\n\n")});
  const Streamed streamed = StreamOf(*ClientOf(server));
  EXPECT_TRUE(streamed.status.ok()) << streamed.status;
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_EQ(server.connections(), 3);
}

TEST(HttpClientTest, AServerThatGoesInTheMiddleOfAStreamIsAnError) {
  const std::string begin = std::string(kStreamHead) + Event("a") + "data: {\"cho";
  ScriptedServer server({AnswersOnce(begin), [&](ServerSide& side) {
                           side.ReadRequest();
                           side.Send(begin);
                           std::this_thread::sleep_for(50ms);  // the client has read them
                           side.BreakOff();
                         }});
  for (int i = 0; i < 2; ++i) {
    const Streamed streamed = StreamOf(*ClientOf(server));
    EXPECT_THAT(streamed.texts, ElementsAre("a"));
    EXPECT_TRUE(absl::IsUnavailable(streamed.status)) << streamed.status;
  }
}

TEST(HttpClientTest, AStreamWithoutDoneIsNotTakenForWhole) {
  ScriptedServer server({AnswersOnce(std::string(kStreamHead) + Event("a"))});
  const Streamed streamed = StreamOf(*ClientOf(server));
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_THAT(std::string(streamed.status.message()), HasSubstr("[DONE]"));
}

struct BadAnswer {
  const char* name;
  std::string bytes;
  absl::StatusCode code;
};

class BadAnswerTest : public ::testing::TestWithParam<BadAnswer> {};

TEST_P(BadAnswerTest, IsAnErrorOfItsKind) {
  ScriptedServer server({AnswersOnce(GetParam().bytes)});
  const auto client = ClientOf(server, {.retry = {.max_attempts = 1}, .max_answer_bytes = 100'000});
  const CallOptions options = {.timeout = 5s};
  EXPECT_EQ(client->Complete(Request(), options).status().code(), GetParam().code);
  EXPECT_EQ(client->ListModels(options).status().code(), GetParam().code);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadAnswerTest,
    ::testing::Values(
        BadAnswer{"nothing", "", absl::StatusCode::kUnavailable},
        BadAnswer{"half_a_head", "HTTP/1.1 200 O", absl::StatusCode::kUnavailable},
        BadAnswer{"half_a_body",
                  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"choices\":", absl::StatusCode::kUnavailable},
        BadAnswer{"no_http", "SSH-2.0-OpenSSH_9.2\r\n", absl::StatusCode::kInternal},
        BadAnswer{"http_2", std::string("\0\0\x12\4\0\0\0\0\0", 9) + std::string(50, '\0'),
                  absl::StatusCode::kInternal},
        BadAnswer{"bad_length", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", absl::StatusCode::kInternal},
        BadAnswer{"promise_of_an_exabyte",
                  "HTTP/1.1 200 OK\r\nContent-Length: 1152921504606846976\r\n\r\n{\"choices\":",
                  absl::StatusCode::kUnavailable},
        BadAnswer{"bad_chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                  absl::StatusCode::kInternal},
        BadAnswer{"no_json", Answer("200 OK", "<html>"), absl::StatusCode::kInternal},
        BadAnswer{"deep_json", Answer("200 OK", std::string(50'000, '[')), absl::StatusCode::kInternal},
        BadAnswer{"huge_head", "HTTP/1.1 200 OK\r\nX: " + std::string(200'000, 'x') + "\r\n\r\n",
                  absl::StatusCode::kResourceExhausted},
        BadAnswer{"huge_body", Answer("200 OK", std::string(200'000, ' ')), absl::StatusCode::kResourceExhausted},
        BadAnswer{"endless_body", "HTTP/1.1 200 OK\r\n\r\n" + std::string(1'000'000, ' '),
                  absl::StatusCode::kResourceExhausted},
        BadAnswer{"redirect", Answer("302 Found", "", "Location: http://elsewhere/\r\n"), absl::StatusCode::kUnknown}),
    [](const auto& tested) { return tested.param.name; });

TEST(HttpClientTest, WhatIsNoStreamIsNotReadAsOne) {
  ScriptedServer server({AnswersOnce(Answer("200 OK", kGood))});
  const Streamed streamed = StreamOf(*ClientOf(server));
  EXPECT_TRUE(absl::IsInternal(streamed.status));
  EXPECT_THAT(std::string(streamed.status.message()), HasSubstr("text/event-stream"));
}

TEST(HttpClientTest, AnEventThatIsTooLongEndsTheStream) {
  ScriptedServer server({AnswersOnce(std::string(kStreamHead) + Event("a") + "data: " + std::string(300'000, 'x'))});
  const Streamed streamed = StreamOf(*ClientOf(server, {.retry = kFast, .max_answer_bytes = 100'000}));
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_TRUE(absl::IsResourceExhausted(streamed.status)) << streamed.status;
}

TEST(HttpClientTest, AnEventThatIsNoneEndsTheStream) {
  ScriptedServer server({AnswersOnce(std::string(kStreamHead) + Event("a") + "data: {\"choices\":5}\n\n")});
  const Streamed streamed = StreamOf(*ClientOf(server));
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_TRUE(absl::IsInternal(streamed.status));
}

// --- time and cancelling; the server reads and then waits for the client to leave
// -------------------------------------

ScriptedServer::Script SaysAndWaits(std::string bytes) {
  return [bytes](ServerSide& side) {
    side.ReadRequest();
    side.Send(bytes);
    side.WaitForEnd();
  };
}

TEST(HttpClientTest, ADeadlineEndsACallWhereverItIs) {
  for (const std::string& begin : {std::string(), std::string("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")}) {
    ScriptedServer server({SaysAndWaits(begin)});
    const auto began = std::chrono::steady_clock::now();
    const absl::Status status = ClientOf(server)->Complete(Request(), {.timeout = 100ms}).status();
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_LT(std::chrono::steady_clock::now() - began, 2s);
  }
  ScriptedServer server({SaysAndWaits(std::string(kStreamHead) + Event("a"))});
  const Streamed streamed = StreamOf(*ClientOf(server), {.timeout = 500ms});
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(streamed.status)) << streamed.status;
}

TEST(HttpClientTest, AServerThatDoesNotAnswerTlsIsGivenUpAfterTheConnectTimeout) {
  ScriptedServer server({[](ServerSide& side) { side.WaitForEnd(); }});
  const auto client =
      Client::Create(
          {.address = "https" + server.address().substr(4), .retry = {.max_attempts = 1}, .connect_timeout = 100ms})
          .value();
  const auto began = std::chrono::steady_clock::now();
  const absl::Status status = client->Complete(Request(), {.timeout = 10s}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
}

TEST(HttpClientTest, ADeadlineInThePastSendsNothingForLong) {
  ScriptedServer server({SaysAndWaits("")});
  EXPECT_TRUE(absl::IsDeadlineExceeded(ClientOf(server)->Complete(Request(), {.timeout = -1ms}).status()));
}

TEST(HttpClientTest, APauseThatTheDeadlineHasNoRoomForIsNotMade) {
  ScriptedServer server({Answers(Answer("503 Service Unavailable", "", "Retry-After: 30\r\n"))});
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(absl::IsUnavailable(ClientOf(server)->Complete(Request(), {.timeout = 2s}).status()));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 1s);
}

// Runs `call` with a token that is asked to stop 50 ms later.
template <typename Call>
absl::Status Stopped(Call call) {
  std::stop_source source;
  std::thread stopper([&] {
    std::this_thread::sleep_for(50ms);
    source.request_stop();
  });
  const auto began = std::chrono::steady_clock::now();
  const absl::Status status = call(CallOptions{.timeout = 10s, .stop = source.get_token()});
  EXPECT_LT(std::chrono::steady_clock::now() - began, 2s);
  stopper.join();
  return status;
}

TEST(HttpClientTest, AnotherThreadCancelsACallWhereverItIs) {
  ScriptedServer silent({SaysAndWaits("")});
  const auto client = ClientOf(silent);
  EXPECT_TRUE(
      absl::IsCancelled(Stopped([&](const CallOptions& o) { return client->Complete(Request(), o).status(); })));
  ScriptedServer busy({Answers(Answer("503 Service Unavailable", "", "Retry-After: 5\r\n"))});
  const auto waiting = ClientOf(busy);
  EXPECT_TRUE(
      absl::IsCancelled(Stopped([&](const CallOptions& o) { return waiting->Complete(Request(), o).status(); })));
  ScriptedServer slow({SaysAndWaits(std::string(kStreamHead) + Event("a"))});
  const auto reading = ClientOf(slow);
  EXPECT_TRUE(absl::IsCancelled(Stopped([&](const CallOptions& o) { return StreamOf(*reading, o).status; })));
}

TEST(HttpClientTest, ACallThatIsCancelledBeforeItBeginsSendsNothing) {
  ScriptedServer server({Answers(Answer("200 OK", kGood))});
  std::stop_source source;
  source.request_stop();
  EXPECT_TRUE(absl::IsCancelled(ClientOf(server)->Complete(Request(), {.stop = source.get_token()}).status()));
  EXPECT_EQ(server.connections(), 0);
}

TEST(HttpClientTest, AStreamThatIsLeftIsClosed) {
  std::promise<void> left;
  ScriptedServer server({[&](ServerSide& side) {
    side.ReadRequest();
    side.Send(std::string(kStreamHead) + Event("a") + Event("b"));
    side.WaitForEnd();
    left.set_value();
  }});
  const auto client = ClientOf(server);
  absl::StatusOr<CompletionStream> stream = client->Stream(Request());
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ(stream->Next()->choices(0).text(), "a");
  stream->Cancel();
  EXPECT_TRUE(absl::IsCancelled(stream->status()));
  EXPECT_EQ(stream->Next(), nullptr);
  EXPECT_EQ(left.get_future().wait_for(5s), std::future_status::ready);
}

TEST(HttpClientTest, AStreamOutlivesItsClient) {
  ScriptedServer server({AnswersOnce(std::string(kStreamHead) + Event("a") + Event("b") + "data: [DONE]\n\n")});
  auto client = ClientOf(server);
  absl::StatusOr<CompletionStream> stream = client->Stream(Request());
  client.reset();
  std::vector<std::string> texts;
  for (const v1::CompletionEvent& event : *stream) texts.push_back(event.choices(0).text());
  EXPECT_THAT(texts, ElementsAre("a", "b"));
  EXPECT_TRUE(stream->status().ok());
}

TEST(HttpClientTest, ManyThreadsMayCall) {
  ScriptedServer server({AnswersOnce(Answer("200 OK", kGood, "Connection: close\r\n"))});
  const auto client = ClientOf(server);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int call = 0; call < 10; ++call) good += TextOf(client->Complete(Request())) == "good" ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 80);
}

// Under ThreadSanitizer: what threads share is the connections between their calls.
TEST(HttpClientTest, ManyThreadsShareTheConnectionsThatAreKept) {
  ScriptedServer server({Answers(Answer("200 OK", kGood))}, /*at_once=*/true);
  const auto client = ClientOf(server);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int call = 0; call < 50; ++call) good += TextOf(client->Complete(Request())) == "good" ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 400);
  EXPECT_LE(server.connections(), 8);
}

}  // namespace
}  // namespace optserve::client
