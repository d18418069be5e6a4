#include "server/replicas/router.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

namespace optserve {
namespace {

GenerateRequest Request(int32_t first_token, int32_t prompt_tokens = 256, std::string key = "") {
  GenerateRequest request = {.max_tokens = 64, .api_key_id = std::move(key)};
  for (int32_t i = 0; i < prompt_tokens; ++i) request.prompt.push_back(first_token + i % 7);
  return request;
}

int32_t Send(Router& router, const GenerateRequest& request, const std::vector<bool>& available = {true, true}) {
  const int32_t replica = router.Pick(request, available);
  if (replica >= 0) router.Add(replica, request);
  return replica;
}

TEST(RouterTest, RequestsSpreadByLoad) {
  Router router(3);
  for (int32_t i = 0; i < 30; ++i) Send(router, Request(100 * i), {true, true, true});
  EXPECT_EQ(router.load(0), router.load(1));
  EXPECT_EQ(router.load(1), router.load(2));
}

TEST(RouterTest, PromptsThatBeginAlikeGoToTheSameEngine) {
  Router router(2);
  const int32_t first = Send(router, Request(100));
  EXPECT_NE(Send(router, Request(200)), first);
  for (int i = 0; i < 3; ++i) {
    GenerateRequest follow_up = Request(100);
    follow_up.prompt.push_back(i);
    follow_up.prompt.resize(300, 5);
    EXPECT_EQ(Send(router, follow_up), first);
    router.Remove(first, follow_up);
  }
}

TEST(RouterTest, ButNotIfThatEngineIsMuchBusier) {
  Router router(2);
  std::array<int, 2> counts = {};
  for (int i = 0; i < 100; ++i) ++counts[static_cast<size_t>(Send(router, Request(100)))];
  EXPECT_GT(counts[0], 40);
  EXPECT_GT(counts[1], 40);
}

TEST(RouterTest, EachKeySpreadsItsOwnWorkSoThatSharesHoldOnTheWhole) {
  Router router(2);
  std::array<std::array<int64_t, 2>, 3> work = {};
  std::mt19937 random(1);
  for (int32_t i = 0; i < 600; ++i) {
    const uint32_t key = i % 10 < 8 ? 0 : 1 + static_cast<uint32_t>(i % 2);
    // The flooding key's prompts begin alike, the others' are of any length.
    const GenerateRequest request =
        key == 0 ? Request(5, 128, "flood")
                 : Request(1000 + i, 1 + static_cast<int32_t>(random() % 512), "key-" + std::to_string(key));
    work[key][static_cast<size_t>(Send(router, request))] += std::ssize(request.prompt) + 64;
  }
  for (const auto& of_key : work) {
    const double share = static_cast<double>(of_key[0]) / static_cast<double>(of_key[0] + of_key[1]);
    EXPECT_NEAR(share, 0.5, 0.05);
  }
}

TEST(RouterTest, WhoIsNotThereGetsNothing) {
  Router router(2);
  EXPECT_EQ(Send(router, Request(100), {false, true}), 1);
  EXPECT_EQ(Send(router, Request(100), {false, true}), 1);
  EXPECT_EQ(Send(router, Request(100), {false, false}), -1);
}

TEST(RouterTest, AnEngineThatHasLostItsCacheIsChosenByLoadAlone) {
  Router router(2);
  EXPECT_EQ(Send(router, Request(100, 1024)), 0);
  EXPECT_EQ(Send(router, Request(100, 1024)), 0);
  router.Forget(0);
  EXPECT_EQ(Send(router, Request(100, 1024)), 1);
}

}  // namespace
}  // namespace optserve
