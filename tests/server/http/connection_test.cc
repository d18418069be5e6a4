// One connection at a time: order, limits, time, and manners. What is refused byte by byte is request_parser_test.cc's.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "server/http/http_server.h"
#include "tests/server/http/test_server.h"

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Milliseconds = std::chrono::milliseconds;

TestServer::Setup WithLimits(const HttpLimits& limits) {
  TestServer::Setup setup;
  setup.http.limits = limits;
  return setup;
}

TEST(ConnectionTest, PipelinedRequestsAreAnsweredInOrder) {
  TestServer::Setup setup;
  setup.engine.pace = FakeEngineClient::Pace::kOwnThread;
  setup.engine.step_time = Milliseconds(2);
  TestServer server(std::move(setup));
  HttpClient client(server.port());
  const std::string body = R"({"prompt":[5],"max_tokens":3,"stream":true})";
  const std::string post =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Request-Id: ID\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  std::string bytes;
  for (int i = 0; i < 5; ++i) {
    bytes += std::string(post).replace(post.find("ID"), 2, "post-" + std::to_string(i));
    bytes += "GET /livez HTTP/1.1\r\nHost: a\r\nX-Request-Id: get-" + std::to_string(i) + "\r\n\r\n";
  }
  client.Send(bytes);
  for (int i = 0; i < 5; ++i) {
    const WireResponse first = client.Receive();
    EXPECT_EQ(first.fields.at("x-request-id"), "post-" + std::to_string(i));
    EXPECT_TRUE(first.body.ends_with("data: [DONE]\n\n"));
    const WireResponse second = client.Receive();
    EXPECT_EQ(second.fields.at("x-request-id"), "get-" + std::to_string(i));
  }
}

TEST(ConnectionTest, AThousandPipelinedProbesAreAllAnswered) {
  TestServer server;
  HttpClient client(server.port());
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
  client.Send(bytes);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(client.Receive().status, 200) << i;
}

TEST(ConnectionTest, ClosesWhenAskedTo) {
  TestServer server;
  HttpClient client(server.port());
  client.Send("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.Receive().fields.at("connection"), "close");
  EXPECT_TRUE(client.ReceiveToEnd());
  HttpClient old(server.port());
  old.Send("GET /livez HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old.Receive().status, 200);
  EXPECT_TRUE(old.ReceiveToEnd());
}

TEST(ConnectionTest, AClientThatHasNoMoreToSendIsStillAnswered) {
  TestServer server;
  HttpClient client(server.port());
  client.Get("/livez");
  client.ShutdownSend();
  EXPECT_EQ(client.Receive().status, 200);
}

TEST(ConnectionTest, BadRequestIsAnsweredAndTheConnectionClosed) {
  TestServer server;
  HttpClient client(server.port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
      "0\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 400);
  ErrorCodeOf(response);
  EXPECT_TRUE(client.ReceiveToEnd());
  EXPECT_EQ(client.received(), "");  // the smuggled request was not
}

TEST(ConnectionTest, ContentTypeMustBeJsonOrAbsent) {
  TestServer server;
  const std::string body = R"({"prompt":[5],"max_tokens":1})";
  const auto post = [&](std::string_view fields) {
    HttpClient client(server.port());
    client.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + std::string(fields) +
                "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    return client.Receive();
  };
  EXPECT_EQ(post("").status, 200);
  EXPECT_EQ(post("Content-Type: application/json\r\n").status, 200);
  EXPECT_EQ(post("Content-Type: Application/JSON; charset=utf-8\r\n").status, 200);
  EXPECT_EQ(post("Content-Encoding: identity\r\n").status, 200);
  EXPECT_EQ(post("Content-Encoding: gzip\r\n").status, 415);
  EXPECT_EQ(post("Content-Type: text/plain\r\n").status, 415);
  const WireResponse form = post("Content-Type: application/x-www-form-urlencoded\r\n");  // what curl -d says
  EXPECT_EQ(form.status, 415);
  EXPECT_EQ(ErrorCodeOf(form), "unsupported_media_type");
  EXPECT_THAT(form.body, HasSubstr("-H 'Content-Type: application/json'"));
}

TEST(ConnectionTest, ContinueIsSaidToWhoWaitsForIt) {
  TestServer server;
  HttpClient client(server.port());
  const std::string body = R"({"prompt":[5],"max_tokens":1})";
  const std::string length = "Content-Length: " + std::to_string(body.size()) + "\r\n";
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + length + "\r\n");
  EXPECT_EQ(client.Receive().status, 100);
  client.Send(body);
  EXPECT_EQ(client.Receive().status, 200);
  // Not when the body is there already.
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + length + "\r\n" + body);
  EXPECT_EQ(client.Receive().status, 200);
  // And what would be refused is refused before the body is sent.
  client.Send("POST /nowhere HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + length + "\r\n");
  EXPECT_EQ(client.Receive().status, 404);
  EXPECT_TRUE(client.ReceiveToEnd());
}

TEST(ConnectionTest, ARefusedShortBodyIsReadSoThatTheConnectionGoesOn) {
  TestServer server;
  HttpClient client(server.port());
  client.Post("/nowhere", std::string(1000, 'x'));
  EXPECT_EQ(client.Receive().status, 404);
  client.Get("/livez");
  EXPECT_EQ(client.Receive().status, 200);
}

TEST(ConnectionTest, TooLongABodyIsRefusedUnreadAndTheAnswerArrives) {
  HttpLimits limits;
  limits.body_bytes = 1 << 20;
  TestServer server(WithLimits(limits));
  HttpClient client(server.port());
  const std::string body(3 << 20, 'x');
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n");
  client.Send(body);  // as careless clients do
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(ErrorCodeOf(response), "request_too_large");
  HttpClient chunks(server.port());
  chunks.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
  std::string chunk = "10000\r\n" + std::string(0x10000, 'x') + "\r\n";
  for (int i = 0; i < 17; ++i) chunks.Send(chunk);
  const WireResponse too_many_chunks = chunks.Receive();
  EXPECT_EQ(too_many_chunks.status, 413);
  EXPECT_EQ(ErrorCodeOf(too_many_chunks), "request_too_large");
}

TEST(ConnectionTest, TextAbove2MiBIsTooLongButIdsAreNot) {
  TestServer server;
  const WireResponse text =
      HttpPost(server.port(), "/v1/completions", "{\"prompt\":\"" + std::string(3 << 20, 'x') + "\"}");
  EXPECT_EQ(text.status, 413);
  EXPECT_EQ(ErrorCodeOf(text), "request_too_large");
  std::string ids = "{\"prompt\":[5";
  while (ids.size() < (3 << 20)) ids += ",1234";
  ids += "]}";
  const WireResponse too_many = HttpPost(server.port(), "/v1/completions", ids);
  EXPECT_EQ(too_many.status, 400);
  EXPECT_EQ(ErrorCodeOf(too_many), "context_length_exceeded");
}

TEST(ConnectionTest, BodiesOfAllConnectionsTogetherAreBounded) {
  HttpLimits limits;
  limits.buffered_body_bytes = 1 << 20;
  TestServer server(WithLimits(limits));
  const std::string header = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n";
  {
    HttpClient first(server.port());
    first.Send(header + std::string(900'000, ' '));
    HttpClient second(server.port());
    second.Send(header + std::string(900'000, ' '));
    // Whichever is read last is one too many; where the reads alternate, both can meet the bound.
    EXPECT_TRUE(Eventually([&] {
      first.ReceiveToEnd(Milliseconds(5));
      second.ReceiveToEnd(Milliseconds(5));
      return first.received().starts_with("HTTP/1.1 429 ") || second.received().starts_with("HTTP/1.1 429 ");
    }));
  }
  // And what was held is given back.
  EXPECT_TRUE(Eventually([&] {
    return HttpPost(server.port(), "/v1/completions", std::string(900'000, ' ') + R"({"prompt":[5]})").status == 200;
  }));
}

TEST(ConnectionTest, HeaderTooLongOrWithTooManyFieldsIs431) {
  TestServer server;
  HttpClient client(server.port());
  client.Send("GET /livez HTTP/1.1\r\nHost: a\r\nX: " + std::string(20'000, 'a'));
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 431);
  ErrorCodeOf(response);
  HttpClient target(server.port());
  target.Get(std::string(1, '/').append(9000, 'a'));
  EXPECT_EQ(target.Receive().status, 414);
}

TEST(ConnectionTest, ASlowHeaderIs408AndASilentClientIsLetGo) {
  HttpLimits limits;
  limits.header_time = Milliseconds(150);
  TestServer server(WithLimits(limits));
  HttpClient silent(server.port());
  HttpClient slow(server.port());
  slow.Send("GET /livez HTTP/1.1\r\nHost: a\r\n");
  // A byte now and then does not help.
  for (int i = 0; i < 200 && !slow.ReceiveToEnd(Milliseconds(20)); ++i) slow.Send("X");
  EXPECT_THAT(slow.received(), StartsWith("HTTP/1.1 408 "));
  EXPECT_TRUE(silent.ReceiveToEnd());
  EXPECT_EQ(silent.received(), "");
}

TEST(ConnectionTest, ASlowBodyIs408) {
  HttpLimits limits;
  limits.body_time = Milliseconds(150);
  TestServer server(WithLimits(limits));
  HttpClient client(server.port());
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
  const WireResponse response = client.Receive();
  EXPECT_EQ(response.status, 408);
  ErrorCodeOf(response);
  EXPECT_TRUE(client.ReceiveToEnd());
}

TEST(ConnectionTest, AnIdleConnectionIsClosedAndABusyOneIsNot) {
  TestServer::Setup setup;
  setup.http.limits.idle_time = setup.http.limits.header_time = Milliseconds(150);
  setup.engine.pace = FakeEngineClient::Pace::kByHand;
  TestServer server(std::move(setup));
  HttpClient busy(server.port());
  busy.Post("/v1/completions", R"({"prompt":[5],"max_tokens":1})");
  HttpClient idle(server.port());
  idle.Get("/livez");
  EXPECT_EQ(idle.Receive().status, 200);
  EXPECT_TRUE(idle.ReceiveToEnd());
  while (server.engine().Step()) {
  }
  EXPECT_EQ(busy.Receive().status, 200);
}

TEST(ConnectionTest, MoreConnectionsThanTheLimitAreToldSo) {
  HttpLimits limits;
  limits.connections = 3;
  TestServer server(WithLimits(limits));
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server.port()));
    clients.back()->Get("/livez");
    EXPECT_EQ(clients.back()->Receive().status, 200);
  }
  HttpClient fourth(server.port());
  const WireResponse refused = fourth.Receive();
  EXPECT_EQ(refused.status, 503);
  ErrorCodeOf(refused);
  EXPECT_TRUE(fourth.ReceiveToEnd());
  clients.pop_back();
  EXPECT_TRUE(Eventually([&] { return HttpGet(server.port(), "/livez").status == 200; }));
}

TEST(ConnectionTest, NewLimitsHoldForTheNextRequestOfAnyConnection) {
  TestServer server;
  const auto set = [&](auto&& change) {
    HttpLimits limits;
    RequestLimits request_limits;
    change(limits, request_limits);
    server.http().SetLimits(limits, request_limits);
  };
  const auto post = [](HttpClient& client, size_t size, std::string_view fields = "") {
    std::string body = fmt::format(R"({{"prompt":[5],"max_tokens":1{}}})", fields);
    body.insert(1, size > body.size() ? size - body.size() : 0, ' ');
    client.Send(fmt::format(
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
        body.size(), body));
    return client.Receive().status;
  };
  HttpClient old(server.port());  // is there all the time
  HttpClient half(server.port());
  EXPECT_EQ(post(old, 5000), 200);
  half.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(half.Receive().status, 100);  // its header has been read

  set([](HttpLimits& limits, RequestLimits&) {
    limits.body_bytes = 6000;
    limits.target_bytes = 100;
  });
  EXPECT_EQ(post(old, 5000), 200);
  const std::string body = std::string(7000, ' ') + R"({"prompt":[5],"max_tokens":1})";
  half.Send(fmt::format("{:x}\r\n{}\r\n0\r\n\r\n", body.size(), body));
  EXPECT_EQ(half.Receive().status, 200);  // goes by what held when it began
  half.Send("GET /livez?" + std::string(300, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(half.Receive().status, 414);
  EXPECT_EQ(post(old, 7000), 413);

  set([](HttpLimits& limits, RequestLimits& request_limits) {
    limits.connections = 2;
    request_limits.max_choices = 3;
  });
  std::optional<HttpClient> first;
  std::optional<HttpClient> second;
  EXPECT_TRUE(Eventually([&] {  // once `old` and `half`, which were refused, are gone
    first.emplace(server.port());
    second.emplace(server.port());
    return post(*first, 7000, R"(,"n":3)") == 200 && post(*second, 7000) == 200;
  }));
  EXPECT_EQ(HttpGet(server.port(), "/livez").status, 503);
  EXPECT_EQ(post(*first, 7000, R"(,"n":4)"), 400);

  set([](HttpLimits& limits, RequestLimits&) { limits.idle_time = Milliseconds(50); });
  EXPECT_EQ(post(*first, 7000, R"(,"n":4)"), 200);
  EXPECT_TRUE(first->ReceiveToEnd());  // it paused for too long
}

TEST(ConnectionTest, SurvivesHavingNoDescriptors) {
  TestServer server;
  HttpClient before(server.port());
  before.Get("/livez");
  EXPECT_EQ(before.Receive().status, 200);
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old_limit), 0);
  {
    // Clients take descriptors too, so they are made first; then all the others are used up.
    rlimit limit = old_limit;
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_cur, 200);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    std::vector<int> used;
    for (int fd = open("/dev/null", O_RDONLY); fd >= 0; fd = open("/dev/null", O_RDONLY)) used.push_back(fd);
    close(used.back());
    used.pop_back();
    HttpClient shed(server.port());  // the kernel connects it; the server has none left for its side
    EXPECT_TRUE(shed.ReceiveToEnd());
    before.Get("/livez");  // who was there is served on
    EXPECT_EQ(before.Receive().status, 200);
    for (const int fd : used) close(fd);
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old_limit), 0);
  EXPECT_TRUE(Eventually([&] { return HttpGet(server.port(), "/livez").status == 200; }));
}

// CPU seconds of this process's threads of that name.
double ThreadSeconds(std::string_view name) {
  double seconds = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string comm;
    std::getline(std::ifstream(entry.path() / "comm"), comm);
    double nanoseconds = 0;
    std::ifstream(entry.path() / "schedstat") >> nanoseconds;
    if (comm == name) seconds += nanoseconds * 1e-9;
  }
  return seconds;
}

TEST(ConnectionTest, LongBodiesAreParsedBesideTheThreadThatServesOthers) {
  TestServer::Setup setup;
  setup.http.io_threads = 1;
  TestServer server(std::move(setup));
  std::string ids = "{\"prompt\":[5";
  while (ids.size() < (15 << 20)) ids += ",12345";
  ids += "]}";
  std::atomic<bool> stop = false;
  std::thread heavy([&] {
    while (!stop) EXPECT_EQ(HttpPost(server.port(), "/v1/completions", ids).status, 400);
  });
  Milliseconds worst{0};
  HttpClient client(server.port());
  for (int i = 0; i < 200; ++i) {
    const auto began = std::chrono::steady_clock::now();
    client.Get("/readyz");
    EXPECT_EQ(client.Receive().status, 200);
    worst = std::max(worst, std::chrono::duration_cast<Milliseconds>(std::chrono::steady_clock::now() - began));
    std::this_thread::sleep_for(Milliseconds(2));
  }
  stop = true;
  heavy.join();
  EXPECT_GT(ThreadSeconds("http-worker"), 0.005);
  std::printf("worst /readyz beside 15 MiB bodies: %d ms\n", static_cast<int>(worst.count()));
}

TEST(ConnectionTest, ManyChunksOfOneByteAreServed) {
  TestServer server;
  HttpClient client(server.port());
  const std::string body = R"({"prompt":[5],"max_tokens":1})";
  std::string bytes = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 65'537; ++i) bytes += "1\r\n \r\n";
  for (const char c : body) bytes += std::string("1\r\n") + c + "\r\n";
  bytes += "0\r\n\r\n";
  client.Send(bytes);
  EXPECT_EQ(client.Receive().status, 200);
}

}  // namespace
}  // namespace optserve
