#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "server/completion/completion_service.h"
#include "server/http/http_server.h"
#include "tests/server/http/http_client.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {

// An HttpServer over a CompletionService over a FakeEngineClient, on a free port. Its model takes ids only unless it is
// given a tokenizer.
class TestServer {
 public:
  struct Setup {
    FakeEngineClient::Options engine;
    HttpServer::Options http;
    bool loaded = true;  // Serve() has been called
    std::optional<Tokenizer> tokenizer;
  };

  TestServer() : TestServer(Setup()) {}
  explicit TestServer(Setup setup);

  int port() const { return http_->port(); }
  HttpServer& http() { return *http_; }
  FakeEngineClient& engine() { return engine_; }
  CompletionService& service() { return *service_; }

 private:
  FakeEngineClient engine_;
  std::unique_ptr<CompletionService> service_;
  std::unique_ptr<HttpServer> http_;  // ends before what it uses
};

// Waits until `condition` holds; false after some seconds.
bool Eventually(const std::function<bool()>& condition);

// The value of "code" in an error body; checks that it is one, with its four keys.
std::string ErrorCodeOf(const WireResponse& response);

}  // namespace optserve
