// Streams as their clients see them: bytes, errors, and what happens when somebody leaves or does not read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/util/error_details.h"
#include "server/http/http_server.h"
#include "tests/server/http/test_server.h"

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kByHand = FakeEngineClient::Pace::kByHand;
using Milliseconds = std::chrono::milliseconds;

std::unique_ptr<TestServer> ServerByHand(HttpLimits limits = {}) {
  TestServer::Setup setup;
  setup.engine.pace = kByHand;
  setup.engine.next_token = FakeEngineClient::Scripted({{11, 12, 13, 14, 15, 16, 17, 18}});
  setup.http.limits = limits;
  return std::make_unique<TestServer>(std::move(setup));
}

// The value of "id" in the first event, for comparing all bytes.
std::string IdIn(const std::string& body) {
  const size_t begin = body.find("cmpl-");
  return body.substr(begin, body.find('"', begin) - begin);
}

std::string CreatedIn(const std::string& body) {
  const size_t begin = body.find("\"created\":") + 10;
  return body.substr(begin, body.find(',', begin) - begin);
}

std::string FingerprintIn(const std::string& body) {
  const size_t begin = body.find("\"system_fingerprint\":") + 21;
  return body.substr(begin, body.find(',', begin) - begin);
}

TEST(StreamingTest, BytesAreExact) {
  std::unique_ptr<TestServer> server = ServerByHand();
  HttpClient client(server->port());
  client.Post("/v1/completions",
              R"({"prompt":[5],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}})");
  ASSERT_TRUE(Eventually([&] { return server->engine().num_live() == 1; }));
  while (server->engine().Step()) {
  }
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 200);
  EXPECT_TRUE(response.whole);
  EXPECT_EQ(response.fields.at("content-type"), "text/event-stream");
  EXPECT_EQ(response.fields.at("cache-control"), "no-cache");
  EXPECT_EQ(response.fields.at("x-accel-buffering"), "no");
  EXPECT_TRUE(response.fields.contains("x-request-id"));
  const std::string head = R"({"id":")" + IdIn(response.body) + R"(","object":"text_completion","created":)" +
                           CreatedIn(response.body) + R"(,"model":"test-model","system_fingerprint":)" +
                           FingerprintIn(response.body) + R"(,"choices":[)";
  EXPECT_TRUE(FingerprintIn(response.body).starts_with("\"fp_"));
  EXPECT_EQ(
      response.body,
      "data: " + head +
          R"({"index":0,"text":"","logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null})"
          "\n\n"
          "data: " +
          head +
          R"({"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":null})"
          "\n\n"
          "data: " +
          head +
          R"(],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}})"
          "\n\n"
          "data: [DONE]\n\n");
}

TEST(StreamingTest, EachTokenIsSentWhenItIsThere) {
  std::unique_ptr<TestServer> server = ServerByHand();
  HttpClient client(server->port());
  client.Post("/v1/completions", R"({"prompt":[5],"max_tokens":4,"stream":true,"return_token_ids":true})");
  ASSERT_TRUE(Eventually([&] { return server->engine().num_live() == 1; }));
  for (int i = 0; i < 4; ++i) {
    server->engine().Step();
    ASSERT_TRUE(client.ReceiveUntil("\"token_ids\":[" + std::to_string(11 + i) + "]")) << client.received();
  }
  EXPECT_TRUE(client.ReceiveUntil("data: [DONE]\n\n"));
}

TEST(StreamingTest, TheConnectionGoesOnAfterAStream) {
  TestServer server;
  HttpClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    client.Post("/v1/completions", R"({"prompt":[5],"max_tokens":2,"stream":true})");
    const WireResponse response = client.Receive();
    EXPECT_TRUE(response.whole);
    EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  }
}

TEST(StreamingTest, Version10GetsEventsUntilTheConnectionCloses) {
  TestServer server;
  HttpClient client(server.port());
  const std::string body = R"({"prompt":[5],"max_tokens":2,"stream":true})";
  client.Send("POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const WireResponse response = client.Receive();
  EXPECT_FALSE(response.fields.contains("transfer-encoding"));
  EXPECT_EQ(response.fields.at("connection"), "close");
  EXPECT_THAT(response.body, StartsWith("data: {"));
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  EXPECT_TRUE(response.whole);
}

TEST(StreamingTest, AFailureAfterTheFirstTokenIsAnEventAndTheEnd) {
  std::unique_ptr<TestServer> server = ServerByHand();
  HttpClient client(server->port());
  client.Post("/v1/completions", R"({"prompt":[5],"max_tokens":4,"stream":true})");
  ASSERT_TRUE(Eventually([&] { return server->engine().num_live() == 1; }));
  server->engine().Step();
  ASSERT_TRUE(client.ReceiveUntil("data: {"));
  server->engine().Die(WithErrorCode(absl::UnavailableError("the engine has ended"), "engine_dead"));
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 200);
  EXPECT_TRUE(response.whole);
  const size_t error = response.body.find("data: {\"error\":{");
  ASSERT_NE(error, std::string::npos) << response.body;
  EXPECT_THAT(response.body.substr(error), HasSubstr("\"code\":\"engine_dead\""));
  EXPECT_TRUE(response.body.ends_with("}}\n\ndata: [DONE]\n\n"));
  EXPECT_TRUE(client.ReceiveToEnd());
}

TEST(StreamingTest, AFailureBeforeTheFirstTokenIsAStatus) {
  std::unique_ptr<TestServer> server = ServerByHand();
  HttpClient client(server->port());
  client.Post("/v1/completions", R"({"prompt":[5],"max_tokens":4,"stream":true})");
  ASSERT_TRUE(Eventually([&] { return server->engine().num_live() == 1; }));
  server->engine().Die(WithErrorCode(absl::UnavailableError("the engine has ended"), "engine_dead"));
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(ErrorCodeOf(response), "engine_dead");
  client.Get("/livez");  // the connection is as good as before
  EXPECT_EQ(client.Receive().status, 200);
}

// How a client leaves, and when.
struct LeaveCase {
  const char* name;
  bool stream;
  int steps;  // of the engine, before it leaves
  bool reset;
  std::string_view more = "";  // sent before, and never to be answered
};
void PrintTo(const LeaveCase& c, std::ostream* out) { *out << c.name; }
class LeavingClientTest : public testing::TestWithParam<LeaveCase> {};

TEST_P(LeavingClientTest, IsNoticedAtOnce) {
  const LeaveCase& c = GetParam();
  std::unique_ptr<TestServer> server = ServerByHand();
  HttpClient client(server->port());
  client.Post("/v1/completions", c.stream ? R"({"prompt":[5],"max_tokens":100,"n":2,"stream":true})"
                                          : R"({"prompt":[5],"max_tokens":100,"n":2})");
  ASSERT_TRUE(Eventually([&] { return server->engine().num_live() == 2; }));
  for (int i = 0; i < c.steps; ++i) server->engine().Step();
  if (c.stream && c.steps > 0) {
    ASSERT_TRUE(client.ReceiveUntil("data: {"));
  }
  ASSERT_TRUE(client.Send(c.more));

  const auto left = std::chrono::steady_clock::now();
  c.reset ? client.Reset() : client.ShutdownSend();
  ASSERT_TRUE(Eventually([&] { return server->engine().num_live() == 0; }));
  const auto noticed_after = std::chrono::steady_clock::now() - left;
  // Nothing is polled, unless more requests lie in the way: it takes some hundred microseconds on a quiet machine, and
  // this is for one that is not. The stall time, which would end it too, is 30 s.
  EXPECT_LT(noticed_after, Milliseconds(3000));
  EXPECT_TRUE(server->http().WaitUntilIdle(std::chrono::seconds(2)));
  EXPECT_EQ(HttpGet(server->port(), "/livez").status, 200);
}

const std::string kManyRequests = [] {
  std::string bytes;
  for (int i = 0; i < 2000; ++i) bytes += "GET /livez HTTP/1.1\r\nHost: test\r\n\r\n";
  return bytes;
}();

INSTANTIATE_TEST_SUITE_P(
    Streaming, LeavingClientTest,
    testing::Values(LeaveCase{.name = "StreamBeforeTheFirstToken", .stream = true, .steps = 0, .reset = false},
                    LeaveCase{.name = "StreamBetweenTokens", .stream = true, .steps = 2, .reset = false},
                    LeaveCase{.name = "StreamByReset", .stream = true, .steps = 2, .reset = true},
                    LeaveCase{.name = "WholeBeforeTheFirstToken", .stream = false, .steps = 0, .reset = false},
                    LeaveCase{.name = "WholeAfterTokens", .stream = false, .steps = 3, .reset = false},
                    LeaveCase{.name = "WholeByReset", .stream = false, .steps = 0, .reset = true},
                    LeaveCase{.name = "WithAnotherRequestBehind",
                              .stream = false,
                              .steps = 0,
                              .reset = false,
                              .more = "GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"},
                    LeaveCase{.name = "WithMoreBehindThanIsReadAhead",
                              .stream = true,
                              .steps = 1,
                              .reset = false,
                              .more = kManyRequests}),
    [](const testing::TestParamInfo<LeaveCase>& info) { return info.param.name; });

// A prompt whose stream is long: every event repeats it.
std::string LongStreamBody(int max_tokens) {
  return R"({"prompt":[5,6,7,8],"max_tokens":)" + std::to_string(max_tokens) + R"(,"n":8,"logprobs":20,"stream":true})";
}

TEST(SlowReaderTest, IsCancelledAfterTheStallTimeAndSlowsNobody) {
  TestServer::Setup setup;
  setup.engine.pace = FakeEngineClient::Pace::kOwnThread;
  setup.engine.step_time = Milliseconds(2);  // 2 s for all of it, if nobody stops it
  setup.http.io_threads = 1;                 // so that both are on the same
  setup.http.limits.stall_time = Milliseconds(300);
  setup.http.limits.stream_bytes = 32 * 1024;
  setup.http.limits.send_buffer_bytes = 8 * 1024;
  TestServer server(std::move(setup));
  HttpClient slow(server.port(), /*receive_buffer_bytes=*/4096);
  slow.Post("/v1/completions", LongStreamBody(1000));
  ASSERT_TRUE(Eventually([&] { return server.engine().num_live() == 8; }));

  const auto began = std::chrono::steady_clock::now();
  int answered = 0;
  while (server.engine().num_live() > 0 && std::chrono::steady_clock::now() - began < std::chrono::seconds(8)) {
    const WireResponse other =
        HttpPost(server.port(), "/v1/completions", R"({"prompt":[9],"max_tokens":5,"stream":true})");
    EXPECT_TRUE(other.whole);
    ++answered;
  }
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_LT(took, std::chrono::seconds(8));
  EXPECT_GT(answered, 0);
  EXPECT_FALSE(server.engine().cancellations().empty());
  EXPECT_TRUE(slow.ReceiveToEnd());
  EXPECT_EQ(slow.received().find("[DONE]"), std::string::npos);
}

TEST(SlowReaderTest, WhoComesBackInTimeGetsEverything) {
  TestServer::Setup setup;
  setup.engine.pace = FakeEngineClient::Pace::kOwnThread;
  setup.http.limits.stream_bytes = 16 * 1024;
  setup.http.limits.send_buffer_bytes = 8 * 1024;
  TestServer server(std::move(setup));
  HttpClient client(server.port(), /*receive_buffer_bytes=*/4096);
  client.Post("/v1/completions", LongStreamBody(50));
  std::this_thread::sleep_for(Milliseconds(200));  // all is generated by now, and little of it taken
  const WireResponse response = client.Receive();
  EXPECT_TRUE(response.whole);
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  size_t events = 0;
  for (size_t at = response.body.find("data: "); at != std::string::npos; at = response.body.find("data: ", at + 1))
    ++events;
  EXPECT_EQ(events, 8u * 50u + 1u);
}

// What was held back because the client was behind goes on when one write takes all that was in the way: then neither
// the socket nor the engine has anything more to say.
TEST(SlowReaderTest, WhatWasHeldBackFollowsWhenAllElseIsTakenAtOnce) {
  TestServer::Setup setup;
  setup.engine.pace = kByHand;
  setup.http.limits.stream_bytes = 1;
  setup.http.limits.send_buffer_bytes = 32 * 1024;
  TestServer server(std::move(setup));
  HttpClient client(server.port(), /*receive_buffer_bytes=*/4096);
  client.Post("/v1/completions", LongStreamBody(50));
  ASSERT_TRUE(Eventually([&] { return server.engine().num_live() == 8; }));
  while (server.engine().Step()) {
    // So that the server takes the steps one by one; whatever it takes together, the client must get all of it.
    std::this_thread::sleep_for(Milliseconds(2));
  }
  const WireResponse response = client.Receive();
  EXPECT_TRUE(response.whole);
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
}

TEST(SlowReaderTest, AWholeAnswerThatIsNotReadEndsTheConnection) {
  TestServer::Setup setup;
  setup.http.limits.stall_time = Milliseconds(200);
  setup.http.limits.send_buffer_bytes = 8 * 1024;
  TestServer server(std::move(setup));
  HttpClient client(server.port(), /*receive_buffer_bytes=*/4096);
  client.Post("/v1/completions", R"({"prompt":[5],"max_tokens":900,"n":8,"logprobs":20})");
  EXPECT_TRUE(Eventually([&] { return !server.engine().submitted().empty(); }));
  EXPECT_TRUE(server.http().WaitUntilIdle(std::chrono::seconds(6)));
  const WireResponse response = client.Receive();
  EXPECT_FALSE(response.whole);
}

TEST(StreamingTest, ManyStreamsAtOnceAllArriveWhole) {
  TestServer::Setup setup;
  setup.engine.pace = FakeEngineClient::Pace::kOwnThread;
  setup.engine.step_time = std::chrono::microseconds(500);
  TestServer server(std::move(setup));
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 64; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server.port()));
    clients.back()->Post("/v1/completions", R"({"prompt":[5],"max_tokens":20,"stream":true})");
  }
  for (const auto& client : clients) {
    const WireResponse response = client->Receive();
    EXPECT_TRUE(response.whole);
    EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  }
}

}  // namespace
}  // namespace optserve
