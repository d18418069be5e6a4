#include "tests/server/http/test_server.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <utility>

namespace optserve {

TestServer::TestServer(Setup setup) : engine_(std::move(setup.engine)) {
  CompletionService::Options options;
  options.served_model_name = "test-model";
  options.model_created = 1700000000;
  service_ = std::make_unique<CompletionService>(engine_, std::move(setup.tokenizer), std::move(options));
  setup.http.port = 0;
  absl::StatusOr<std::unique_ptr<HttpServer>> http = HttpServer::Start(std::move(setup.http));
  if (!http.ok()) throw std::runtime_error(http.status().ToString());
  http_ = *std::move(http);
  if (setup.loaded) http_->Serve(*service_);
}

bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::string ErrorCodeOf(const WireResponse& response) {
  const nlohmann::json body = nlohmann::json::parse(response.body, nullptr, /*allow_exceptions=*/false);
  if (!body.is_object() || body.size() != 1 || !body.contains("error")) {
    ADD_FAILURE() << "not an error body: " << response.body;
    return "";
  }
  const nlohmann::json& error = body["error"];
  EXPECT_EQ(error.size(), 4u) << response.body;
  for (const char* key : {"message", "type", "param", "code"}) EXPECT_TRUE(error.contains(key)) << response.body;
  EXPECT_TRUE(error["message"].is_string() && error["type"].is_string()) << response.body;
  return error["code"].is_string() ? error["code"].get<std::string>() : "";
}

}  // namespace optserve
