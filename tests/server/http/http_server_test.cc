#include "server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "server/access/access_control.h"
#include "server/http/routes.h"
#include "tests/server/http/test_server.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

Tokenizer DemoTokenizer() {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(DemoModelPath());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(HttpServerTest, ProbesAnswer) {
  TestServer server;
  for (const char* path : {"/livez", "/readyz", "/health", "/ping"}) {
    const WireResponse response = HttpGet(server.port(), path);
    EXPECT_EQ(response.status, 200) << path;
    EXPECT_EQ(response.body, "ok\n") << path;
  }
}

TEST(HttpServerTest, NotReadyIsSaidWithTheReason) {
  std::atomic<bool> ready = false;
  TestServer::Setup setup;
  setup.http.ready = [&] { return ready ? absl::OkStatus() : absl::InternalError("the canary failed"); };
  TestServer server(std::move(setup));
  for (const char* path : {"/readyz", "/health", "/ping"}) {
    const WireResponse response = HttpGet(server.port(), path);
    EXPECT_EQ(response.status, 503) << path;
    EXPECT_THAT(response.body, HasSubstr("the canary failed"));
    EXPECT_TRUE(response.fields.contains("retry-after"));
  }
  EXPECT_EQ(HttpGet(server.port(), "/livez").status, 200);
  ready = true;
  EXPECT_EQ(HttpGet(server.port(), "/readyz").status, 200);
}

TEST(HttpServerTest, WhileTheModelLoadsOnlyLivezIsOk) {
  TestServer::Setup setup;
  setup.loaded = false;
  TestServer server(std::move(setup));
  EXPECT_EQ(HttpGet(server.port(), "/livez").status, 200);
  EXPECT_EQ(ErrorCodeOf(HttpGet(server.port(), "/readyz")), "model_loading");
  EXPECT_EQ(ErrorCodeOf(HttpGet(server.port(), "/v1/models")), "model_loading");
  EXPECT_EQ(ErrorCodeOf(HttpPost(server.port(), "/tokenize", R"({"prompt":"a"})")), "model_loading");
  const WireResponse response = HttpPost(server.port(), "/v1/completions", R"({"prompt":[5]})");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(ErrorCodeOf(response), "model_loading");
  EXPECT_TRUE(response.fields.contains("retry-after"));

  server.http().Serve(server.service());
  EXPECT_EQ(HttpGet(server.port(), "/readyz").status, 200);
  EXPECT_EQ(HttpPost(server.port(), "/v1/completions", R"({"prompt":[5]})").status, 200);
}

TEST(HttpServerTest, MetricsAndVersionAndModels) {
  TestServer::Setup setup;
  setup.http.metrics = [] { return std::string("optserve_requests_running 0\n"); };
  TestServer server(std::move(setup));
  const WireResponse metrics = HttpGet(server.port(), "/metrics");
  EXPECT_EQ(metrics.body, "optserve_requests_running 0\n");
  EXPECT_THAT(metrics.fields.at("content-type"), StartsWith("text/plain; version=0.0.4"));
  EXPECT_TRUE(nlohmann::json::parse(HttpGet(server.port(), "/version").body).at("version").is_string());
  const nlohmann::json models = nlohmann::json::parse(HttpGet(server.port(), "/v1/models").body);
  EXPECT_EQ(models.at("data").at(0).at("id"), "test-model");
  EXPECT_EQ(models.at("data").at(0).at("created"), 1700000000);
  EXPECT_EQ(models.at("data").at(0).at("max_model_len"), 1024);
}

TEST(HttpServerTest, TheApiDescribesItself) {
  TestServer server;
  const nlohmann::json capabilities = nlohmann::json::parse(HttpGet(server.port(), "/v1/capabilities").body);
  EXPECT_EQ(capabilities.at("model"), "test-model");
  EXPECT_EQ(capabilities.at("limits").at("max_model_len"), 1024);
  EXPECT_EQ(capabilities.at("fields").at("n").at("maximum"), 128);
  const nlohmann::json document = nlohmann::json::parse(HttpGet(server.port(), "/openapi.json").body);
  std::set<std::string> routes;
  for (const Route& route : Routes()) {
    if (!route.method.empty()) routes.emplace(route.path);  // without: it is there to be refused
  }
  std::set<std::string> documented;
  for (const auto& [path, operations] : document.at("paths").items()) documented.insert(path);
  EXPECT_EQ(documented, routes);
}

TEST(HttpServerTest, UnknownPathIs404AndWrongMethod405WithAllow) {
  TestServer server;
  for (const char* path :
       {"/index.html", "/v1/completions/", "/V1/completions", "/v1/completion", "//livez", "/%6civez",
        "/v1/engines//completions", "/v1/engines/%zz/completions", "/v1/engines/%00/completions"}) {
    const WireResponse response = HttpGet(server.port(), path);
    EXPECT_EQ(response.status, 404) << path;
    EXPECT_EQ(ErrorCodeOf(response), "route_not_found") << path;
  }
  const WireResponse get = HttpGet(server.port(), "/v1/completions");
  EXPECT_EQ(get.status, 405);
  EXPECT_EQ(get.fields.at("allow"), "POST");
  EXPECT_EQ(ErrorCodeOf(get), "method_not_allowed");
  const WireResponse post = HttpPost(server.port(), "/livez", "{}");
  EXPECT_EQ(post.status, 405);
  EXPECT_EQ(post.fields.at("allow"), "GET, HEAD");
  HttpClient client(server.port());
  client.Send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 404);
}

TEST(HttpServerTest, ChatIsSaidNotToBeThere) {
  TestServer server;
  for (const WireResponse& response : {HttpPost(server.port(), "/v1/chat/completions", R"({"messages":[]})"),
                                       HttpGet(server.port(), "/v1/chat/completions")}) {
    EXPECT_EQ(response.status, 404);
    EXPECT_EQ(ErrorCodeOf(response), "chat_not_supported");
  }
}

TEST(HttpServerTest, HeadIsGetWithoutTheBody) {
  TestServer server;
  HttpClient client(server.port());
  client.Send("HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
  const WireResponse head = client.Receive(/*to_head_request=*/true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.fields.at("content-length"), "3");
  EXPECT_EQ(client.Receive().body, "ok\n");  // and no body of the first lay before it
  client.Send("HEAD /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(client.Receive(/*to_head_request=*/true).status, 405);
}

TEST(HttpServerTest, CompletesWhole) {
  TestServer server;
  const WireResponse response =
      HttpPost(server.port(), "/v1/completions", R"({"prompt":[5,6,7],"max_tokens":4,"n":3,"return_token_ids":true})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.fields.at("content-type"), "application/json");
  const nlohmann::json body = nlohmann::json::parse(response.body);
  ASSERT_EQ(body.at("choices").size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(body["choices"][i].at("index"), i);
    EXPECT_EQ(body["choices"][i].at("token_ids").size(), 4u);
  }
  EXPECT_EQ(body.at("usage").at("prompt_tokens"), 3);
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 12);
  EXPECT_THAT(body.at("id").get<std::string>(), StartsWith("cmpl-"));
  EXPECT_EQ(body.at("model"), "test-model");
}

TEST(HttpServerTest, TheOldPathsAreTheSameRoute) {
  TestServer server;
  const std::string body = R"({"prompt":[5],"max_tokens":2,"temperature":0})";
  EXPECT_EQ(HttpPost(server.port(), "/completions", body).status, 200);
  EXPECT_EQ(HttpPost(server.port(), "/v1/engines/test-model/completions", body).status, 200);
  EXPECT_EQ(HttpPost(server.port(), "/v1/engines/test%2Dmodel/completions", body).status, 200);
  const WireResponse other = HttpPost(server.port(), "/v1/engines/facebook/opt-175b/completions", body);
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(ErrorCodeOf(other), "model_not_found");
  const WireResponse both =
      HttpPost(server.port(), "/v1/engines/other/completions", R"({"prompt":[5],"model":"test-model"})");
  EXPECT_EQ(both.status, 400);
}

TEST(HttpServerTest, ErrorsOfTheRequestAreAnsweredAsTheyAre) {
  TestServer server;
  const auto status = [&](std::string_view body) { return HttpPost(server.port(), "/v1/completions", body).status; };
  EXPECT_EQ(status("{"), 400);
  EXPECT_EQ(status(R"({"prompt":[5],"nonsense":1})"), 400);
  EXPECT_EQ(status(R"({"prompt":"text, but no tokenizer"})"), 400);
  EXPECT_EQ(status(R"({"prompt":[5],"model":"another"})"), 404);
  EXPECT_EQ(status(R"({"prompt":[5],"max_tokens":5000})"), 400);
  EXPECT_EQ(status(R"({"prompt":[5],"max_tokens":5000,"stream":true})"), 400);  // nothing was streamed yet
  server.engine().RefuseWith(absl::ResourceExhaustedError("the queue is full"));
  const WireResponse full = HttpPost(server.port(), "/v1/completions", R"({"prompt":[5]})");
  EXPECT_EQ(full.status, 429);
  EXPECT_TRUE(full.fields.contains("retry-after"));
  server.engine().RefuseWith(absl::InternalError("secret detail"));
  const WireResponse broken = HttpPost(server.port(), "/v1/completions", R"({"prompt":[5]})");
  EXPECT_EQ(broken.status, 500);
  EXPECT_EQ(broken.fields.at("x-should-retry"), "true");
  EXPECT_EQ(broken.body.find("secret"), std::string::npos);
}

TEST(HttpServerTest, TheLogSaysWhoGotWhatAndWhatWentWrongButNoText) {
  std::FILE* file = std::tmpfile();
  const Log log(LogFormat::kText, file);
  TestServer::Setup setup;
  setup.tokenizer = DemoTokenizer();
  setup.http.log = &log;
  setup.engine.pace = FakeEngineClient::Pace::kByHand;
  TestServer server(std::move(setup));
  HttpClient client(server.port());
  client.Post("/v1/completions", R"({"prompt":"A secret prompt","max_tokens":3})", "X-Request-Id: first\r\n");
  ASSERT_TRUE(Eventually([&] { return server.engine().num_live() == 1; }));
  while (server.engine().Step()) {
  }
  EXPECT_EQ(client.Receive().status, 200);
  server.engine().RefuseWith(absl::InternalError("the detail"));
  client.Post("/v1/completions", R"({"prompt":"A secret prompt"})", "X-Request-Id: second\r\n");
  EXPECT_EQ(client.Receive().status, 500);
  server.engine().RefuseWith(absl::OkStatus());
  client.Post("/v1/completions", R"({"prompt":"A secret prompt","stream":true})", "X-Request-Id: third\r\n");
  ASSERT_TRUE(Eventually([&] { return server.engine().num_live() == 1; }));
  client.Reset();
  EXPECT_TRUE(server.http().WaitUntilIdle(std::chrono::seconds(5)));

  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  std::fclose(file);
  EXPECT_THAT(
      text, ContainsRegex(" info completion request_id=first trace_id=\"\" id=cmpl-[0-9a-f]+ key=\"?\"? protocol=http "
                          "status=200 seconds=[0-9.e-]+ prompt_tokens=[0-9]+ cached_tokens=0 completion_tokens=3\n"));
  EXPECT_THAT(text,
              ContainsRegex(" error request_failed request_id=second trace_id=\"\" protocol=http why=.*the detail"));
  EXPECT_THAT(text, ContainsRegex(" completion request_id=second .* status=500 "));
  EXPECT_THAT(text, ContainsRegex(" completion request_id=third .* status=499 "));
  EXPECT_THAT(text, Not(HasSubstr("secret")));
}

TEST(HttpServerTest, RequestIdIsEchoedIfSaneElseMade) {
  TestServer server;
  const auto id = [&](std::string_view field) {
    HttpClient client(server.port());
    client.Send("GET /livez HTTP/1.1\r\nHost: a\r\n" + std::string(field) + "\r\n");
    return client.Receive().fields["x-request-id"];
  };
  EXPECT_EQ(id("X-Request-Id: abc-123_4.5\r\n"), "abc-123_4.5");
  const std::string made = "req-[0-9a-f]+";
  EXPECT_THAT(id(""), MatchesRegex(made));
  EXPECT_NE(id(""), id(""));
  EXPECT_THAT(id("X-Request-Id: a b\r\n"), MatchesRegex(made));
  EXPECT_THAT(id("X-Request-Id: <script>\r\n"), MatchesRegex(made));
  EXPECT_THAT(id("X-Request-Id: " + std::string(129, 'a') + "\r\n"), MatchesRegex(made));
  EXPECT_TRUE(HttpGet(server.port(), "/none").fields.contains("x-request-id"));
  HttpClient garbage(server.port());
  garbage.Send("\x01garbage\r\n\r\n");
  EXPECT_TRUE(garbage.Receive().fields.contains("x-request-id"));
}

TEST(HttpServerTest, WithKeysOnlyTheirHoldersAreServed) {
  const NewApiKey ana = {.secret = "sk-ana", .key = {.id = "key-ana", .hash = HashApiKey("sk-ana")}};
  AccessControl access({ana.key}, {});
  TestServer::Setup setup;
  setup.http.authorize = [&](std::string_view authorization, std::string_view address) {
    EXPECT_EQ(address, "127.0.0.1");
    return access.Authorize(authorization, address);
  };
  TestServer server(std::move(setup));
  const std::string body = R"({"prompt":[5],"max_tokens":1})";

  for (const char* path :
       {"/v1/completions", "/completions", "/v1/engines/test-model/completions", "/tokenize", "/detokenize"}) {
    const WireResponse response = HttpPost(server.port(), path, body);
    EXPECT_EQ(response.status, 401) << path;
    EXPECT_EQ(ErrorCodeOf(response), "invalid_api_key");
    EXPECT_EQ(response.fields.at("www-authenticate"), "Bearer");
  }
  EXPECT_EQ(HttpGet(server.port(), "/v1/models").status, 401);
  EXPECT_EQ(HttpGet(server.port(), "/tokenizer_info").status, 401);
  EXPECT_EQ(HttpGet(server.port(), "/debug/steps").status, 401);
  for (const char* path : {"/livez", "/readyz", "/health", "/ping", "/version", "/metrics"}) {
    EXPECT_EQ(HttpGet(server.port(), path).status, 200) << path;
  }
  EXPECT_TRUE(server.engine().submitted().empty());

  EXPECT_EQ(HttpPost(server.port(), "/v1/completions", body, "Authorization: Bearer sk-ana\r\n").status, 200);
  ASSERT_EQ(server.engine().submitted().size(), 1u);
  EXPECT_EQ(server.engine().submitted()[0].api_key_id, "key-ana");

  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(HttpPost(server.port(), "/v1/completions", body, "Authorization: Bearer sk-eve\r\n").status, 401);
  }
  const WireResponse enough = HttpPost(server.port(), "/v1/completions", body, "Authorization: Bearer sk-eve\r\n");
  EXPECT_EQ(enough.status, 429);
  EXPECT_TRUE(enough.fields.contains("retry-after"));
}

// A connection outlives a request, but who asks does not.
TEST(HttpServerTest, AKeyIsGoodForItsRequestOnly) {
  AccessControl access({{.id = "key-ana", .hash = HashApiKey("sk-ana")}}, {});
  TestServer::Setup setup;
  setup.http.authorize = [&](std::string_view authorization, std::string_view address) {
    return access.Authorize(authorization, address);
  };
  setup.http.probes_need_key = true;
  TestServer server(std::move(setup));
  HttpClient client(server.port());
  client.Post("/v1/completions", R"({"prompt":[5]})", "Authorization: Bearer sk-ana\r\n");
  EXPECT_EQ(client.Receive().status, 200);
  client.Post("/v1/completions", R"({"prompt":[5]})");
  EXPECT_EQ(client.Receive().status, 401);
  client.Get("/livez");
  EXPECT_EQ(client.Receive().status, 401);
}

TEST(HttpServerTest, TellsOfTheLastStepsOneByOne) {
  TestServer server;
  EXPECT_EQ(HttpGet(server.port(), "/debug/steps").body, R"({"steps":[]})");
  StepRecord step{.step = 7, .replica = 1, .begin_ns = 5'000'000'000, .num_tokens = 12, .num_sequences = 3};
  step.times[StepPhase::kWeights] = 800;
  step.times[StepPhase::kHost] = 200;
  step.demand = {.weight_bytes = 1e12, .kv_bytes = 4};
  server.engine().SetSteps({{.step = 6}, step});
  const nlohmann::json answer = nlohmann::json::parse(HttpGet(server.port(), "/debug/steps").body);
  ASSERT_EQ(answer.at("steps").size(), 2u);
  EXPECT_EQ(answer.at("steps").at(0).at("step"), 6);
  const nlohmann::json expected = {{"step", 7},
                                   {"replica", 1},
                                   {"begin_ns", 5'000'000'000},
                                   {"tokens", 12},
                                   {"sequences", 3},
                                   {"phase_ns",
                                    {{"weights", 800},
                                     {"attention", 0},
                                     {"all_reduce", 0},
                                     {"kernels", 0},
                                     {"sampling", 0},
                                     {"gaps", 0},
                                     {"device", 0},
                                     {"host", 200}}},
                                   {"weight_bytes", 1'000'000'000'000},
                                   {"kv_bytes", 4},
                                   {"weight_flops", 0},
                                   {"attention_flops", 0}};
  EXPECT_EQ(answer.at("steps").at(1), expected);
}

TEST(HttpServerTest, TokenizesBothWays) {
  TestServer::Setup setup;
  setup.tokenizer = DemoTokenizer();
  TestServer server(std::move(setup));
  const nlohmann::json tokens =
      nlohmann::json::parse(HttpPost(server.port(), "/tokenize", R"({"prompt":"Call me Ishmael."})").body);
  EXPECT_EQ(tokens.at("count"), tokens.at("tokens").size());
  EXPECT_EQ(tokens.at("tokens").at(0), 2);
  EXPECT_EQ(tokens.at("max_model_len"), 1024);
  const nlohmann::json without = nlohmann::json::parse(
      HttpPost(server.port(), "/tokenize", R"({"prompt":"Call me Ishmael.","add_special_tokens":false})").body);
  const nlohmann::json ids = {{"tokens", without.at("tokens")}};
  EXPECT_EQ(nlohmann::json::parse(HttpPost(server.port(), "/detokenize", ids.dump()).body),
            (nlohmann::json{{"prompt", "Call me Ishmael."}}));
  EXPECT_EQ(nlohmann::json::parse(HttpGet(server.port(), "/tokenizer_info").body).at("eos_token"), "</s>");
  EXPECT_EQ(HttpPost(server.port(), "/tokenize", R"({"prompt":7})").status, 400);
  const WireResponse beyond = HttpPost(server.port(), "/detokenize", R"({"tokens":[4095,4096]})");
  EXPECT_EQ(beyond.status, 400);
  EXPECT_THAT(beyond.body, HasSubstr("\"tokens[1] is 4096, but the model's token ids are 0 to 4095\""));
  EXPECT_EQ(nlohmann::json::parse(beyond.body).at("error").at("param"), "tokens[1]");
  EXPECT_EQ(ErrorCodeOf(HttpPost(server.port(), "/tokenize", R"({"prompt":"a","model":"b"})")), "model_not_found");
}

TEST(HttpServerTest, WithoutATokenizerTheRoutesForTextSaySo) {
  TestServer server;
  EXPECT_EQ(ErrorCodeOf(HttpPost(server.port(), "/tokenize", R"({"prompt":"a"})")), "tokenizer_missing");
  EXPECT_EQ(ErrorCodeOf(HttpPost(server.port(), "/detokenize", R"({"tokens":[5]})")), "tokenizer_missing");
  EXPECT_EQ(ErrorCodeOf(HttpGet(server.port(), "/tokenizer_info")), "tokenizer_missing");
}

TEST(HttpServerTest, APortInUseIsOneLineThatNamesIt) {
  TestServer server;
  HttpServer::Options options;
  options.port = static_cast<uint16_t>(server.port());
  const absl::StatusOr<std::unique_ptr<HttpServer>> second = HttpServer::Start(std::move(options));
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(std::to_string(server.port())));
  EXPECT_EQ(second.status().message().find('\n'), std::string::npos);
}

TEST(HttpServerTest, AHostThatIsNotOursIsOneLine) {
  for (const char* host : {"192.0.2.1", "no-such-host.invalid", "not a host"}) {
    HttpServer::Options options;
    options.host = host;
    options.port = 0;
    const absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Start(std::move(options));
    ASSERT_FALSE(server.ok()) << host;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(host));
  }
}

TEST(HttpServerTest, DrainRefusesNewCompletionsAndLetsRunningOnesFinish) {
  TestServer::Setup setup;
  setup.engine.pace = FakeEngineClient::Pace::kByHand;
  TestServer server(std::move(setup));
  HttpClient running(server.port());
  running.Post("/v1/completions", R"({"prompt":[5],"max_tokens":2})");
  ASSERT_TRUE(Eventually([&] { return server.engine().num_live() == 1; }));
  HttpClient idle(server.port());
  idle.Get("/livez");
  EXPECT_EQ(idle.Receive().status, 200);

  server.http().Drain();
  idle.Post("/v1/completions", R"({"prompt":[5]})");
  const WireResponse refused = idle.Receive();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(ErrorCodeOf(refused), "shutting_down");
  EXPECT_TRUE(refused.fields.contains("retry-after"));
  EXPECT_EQ(refused.fields.at("connection"), "close");
  EXPECT_EQ(ErrorCodeOf(HttpGet(server.port(), "/readyz")), "shutting_down");
  EXPECT_EQ(HttpGet(server.port(), "/livez").status, 200);
  EXPECT_FALSE(server.http().WaitUntilIdle(std::chrono::milliseconds(1)));

  while (server.engine().Step()) {
  }
  EXPECT_EQ(running.Receive().status, 200);
  EXPECT_TRUE(server.http().WaitUntilIdle(std::chrono::seconds(5)));
}

TEST(HttpServerTest, StopEndsWhatRunsWithAWord) {
  TestServer::Setup setup;
  setup.engine.pace = FakeEngineClient::Pace::kByHand;
  TestServer server(std::move(setup));
  HttpClient whole(server.port());
  whole.Post("/v1/completions", R"({"prompt":[5],"max_tokens":9})");
  HttpClient stream(server.port());
  stream.Post("/v1/completions", R"({"prompt":[5],"max_tokens":9,"stream":true})");
  HttpClient idle(server.port());
  ASSERT_TRUE(Eventually([&] { return server.engine().num_live() == 2; }));
  server.engine().Step();
  ASSERT_TRUE(stream.ReceiveUntil("data: {"));

  server.http().Stop();
  EXPECT_EQ(server.engine().num_live(), 0);
  EXPECT_EQ(ErrorCodeOf(whole.Receive()), "shutting_down");
  const WireResponse streamed = stream.Receive();
  EXPECT_TRUE(streamed.whole);
  EXPECT_THAT(streamed.body, HasSubstr("shutting_down"));
  EXPECT_TRUE(streamed.body.ends_with("data: [DONE]\n\n"));
  EXPECT_TRUE(idle.ReceiveToEnd());
  EXPECT_THROW(HttpClient(server.port()), std::runtime_error);
  server.http().Stop();  // once more does nothing
}

TEST(HttpServerTest, StopsWhileClientsComeAndGo) {
  for (int round = 0; round < 20; ++round) {
    TestServer server;
    std::atomic<bool> stop = false;
    std::thread clients([&, port = server.port()] {
      while (!stop) {
        try {
          HttpClient client(port);
          client.Post("/v1/completions", R"({"prompt":[5],"max_tokens":3,"stream":true})");
          client.Receive();
        } catch (const std::runtime_error&) {
          return;
        }
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 5));
    server.http().Stop();
    stop = true;
    clients.join();
  }
}

}  // namespace
}  // namespace optserve
