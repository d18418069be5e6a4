// What API keys may take, and that nobody waits for a service that has ended.

#include "server/completion/completion_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/util/error_details.h"
#include "server/access/key_quotas.h"
#include "tests/server/completion/completion_client.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {
namespace {

ApiKey LimitedKey(KeySettings settings) { return {.id = "key-1", .settings = settings}; }

CompletionRequest OfKey(std::vector<Prompt> prompts, int32_t max_tokens) {
  CompletionRequest request{.prompts = std::move(prompts), .max_tokens = max_tokens};
  request.api_key_id = "key-1";
  return request;
}

TEST(CompletionServiceQuotasTest, AKeysLimitsHoldUntilItsRequestsEnd) {
  FakeEngineClient engine({.pace = FakeEngineClient::Pace::kByHand});
  KeyQuotas quotas;
  quotas.Replace({LimitedKey({.concurrent_requests = 2, .share_weight = 5})});
  const auto service = MakeService(engine, {.quotas = &quotas});
  Client first(*service, OfKey({Ids({5, 6})}, 100));
  Client second(*service, OfKey({Ids({5, 6})}, 1));
  EXPECT_EQ(engine.submitted().at(0).share_weight, 5);
  const absl::Status refused = Client(*service, OfKey({Ids({5, 6})}, 1)).Finish().error;
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(RetryAfterSeconds(refused).value_or(0), 1);
  first.Leave();
  Client third(*service, OfKey({Ids({5, 6})}, 1));
  while (engine.Step()) {
  }
  EXPECT_TRUE(second.Finish().error.ok());
  EXPECT_TRUE(third.Finish().error.ok());
  EXPECT_EQ(engine.submitted().size(), 3u);
}

TEST(CompletionServiceQuotasTest, TokensOfAllAnswersAreReserved) {
  FakeEngineClient engine({});
  KeyQuotas quotas;
  quotas.Replace({LimitedKey({.tokens_per_minute = 100})});
  const auto service = MakeService(engine, {.quotas = &quotas});
  CompletionRequest request = OfKey({Ids({5, 6}), Ids({7, 8, 9})}, 10);
  request.n = 4;  // 5 tokens of prompts and 80 of answers
  EXPECT_TRUE(Client(*service, request).Finish().error.ok());
  EXPECT_TRUE(Client(*service, OfKey({Ids({5, 6})}, 10)).Finish().error.ok());
  EXPECT_EQ(Client(*service, OfKey({Ids({5, 6})}, 10)).Finish().error.code(), absl::StatusCode::kResourceExhausted);
  CompletionRequest anonymous = OfKey({Ids({5, 6})}, 10);
  anonymous.api_key_id.clear();
  EXPECT_TRUE(Client(*service, anonymous).Finish().error.ok());
}

TEST(CompletionServiceQuotasTest, TokenizingIsARequestOfItsKey) {
  FakeEngineClient engine({});
  KeyQuotas quotas;
  quotas.Replace({LimitedKey({.requests_per_minute = 3})});
  const auto service = MakeService(engine, {.quotas = &quotas});
  EXPECT_EQ(service->Tokenize("key-1", "another model", "a", {}).status().code(), absl::StatusCode::kNotFound);
  const absl::StatusOr<std::vector<int32_t>> ids = service->Tokenize("key-1", "", "Call me", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_TRUE(service->Detokenize("key-1", "", *ids).ok());
  EXPECT_TRUE(Client(*service, OfKey({Ids({5, 6})}, 1)).Finish().error.ok());
  const absl::Status refused = service->Tokenize("key-1", "", "Call me", {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(RetryAfterSeconds(refused).value_or(0), 1);
  EXPECT_EQ(service->Detokenize("key-1", "", *ids).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(service->Tokenize("", "", "Call me", {}).ok());
}

TEST(CompletionServiceQuotasTest, ACallThatWaitsForTheTokenizerIsToldThatTheServiceEnds) {
  FakeEngineClient engine({});
  auto service = MakeService(engine, {.inline_text_bytes = 1});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) {
    CompletionRequest request{.prompts = {Text(std::string(100'000, 'a' + i))}, .max_tokens = 1};
    clients.push_back(std::make_unique<Client>(*service, std::move(request)));
  }
  service.reset();
  int num_told = 0;
  for (const auto& client : clients) num_told += ErrorCode(client->Finish().error) == "shutting_down" ? 1 : 0;
  EXPECT_GT(num_told, 0);
}

}  // namespace
}  // namespace optserve
