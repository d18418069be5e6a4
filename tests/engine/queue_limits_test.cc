#include "engine/queue_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace optserve {
namespace {

class QueueLimitsTest : public testing::Test {
 protected:
  // Adds the request if it may wait.
  bool TryAdd(const std::string& key, const std::string& user = "", int32_t prompt_tokens = 1) {
    const GenerateRequest request{
        .id = next_id_, .prompt = std::vector<int32_t>(prompt_tokens), .api_key_id = key, .user = user};
    if (!limits_.Check(request, free_places_).ok()) return false;
    limits_.Add(request);
    ++next_id_;
    return true;
  }
  int AddAll(const std::string& key, int count, const std::string& user = "") {
    int added = 0;
    for (int i = 0; i < count; ++i) added += TryAdd(key, user) ? 1 : 0;
    return added;
  }

  QueueLimits limits_{100, 1000};
  int64_t free_places_ = 0;
  RequestId next_id_ = 1;
};

TEST_F(QueueLimitsTest, OneKeyAloneMayFillTheQueue) { EXPECT_EQ(AddAll("a", 1000), 100); }

TEST_F(QueueLimitsTest, PlacesThatAreFreeAreNoQueue) {
  free_places_ = 7;
  EXPECT_EQ(AddAll("a", 1000), 107);
}

TEST_F(QueueLimitsTest, AFloodOfOneKeyRefusesOnlyItsOwnRequests) {
  AddAll("flood", 1000);
  EXPECT_EQ(AddAll("b", 1000), 50) << "half, with two keys";
  EXPECT_EQ(AddAll("c", 1000), 33);
  EXPECT_EQ(AddAll("flood", 1000), 0);
}

TEST_F(QueueLimitsTest, AFloodOfOneUserRefusesOnlyHisOwnRequests) {
  AddAll("", 1000, "flood");
  EXPECT_EQ(AddAll("", 1000, "b"), 50);
  EXPECT_EQ(AddAll("", 1000, "flood"), 0);
  EXPECT_EQ(AddAll("", 1000, "c"), 0) << "one and a half times the limit wait";
  EXPECT_TRUE(TryAdd("another key")) << "but a key still gets in";
}

TEST_F(QueueLimitsTest, ManyKeysTogetherNeverPassTwiceTheLimit) {
  for (int key = 0; key < 300; ++key) AddAll(std::to_string(key), 1000);
  EXPECT_EQ(limits_.num_requests(), 200);
}

TEST_F(QueueLimitsTest, TokensCountLikewise) {
  EXPECT_TRUE(TryAdd("flood", "", 5000)) << "a prompt alone is never too long";
  EXPECT_FALSE(TryAdd("flood", "", 1));
  limits_.Remove(1);
  EXPECT_TRUE(TryAdd("flood", "", 900));
  EXPECT_FALSE(TryAdd("flood", "", 200));
  EXPECT_TRUE(TryAdd("b", "", 450));
  EXPECT_FALSE(TryAdd("b", "", 100)) << "its half is 500";
}

TEST_F(QueueLimitsTest, WhoHasLeftIsForgotten) {
  AddAll("a", 30);
  AddAll("b", 30, "u");
  for (RequestId id = 1; id < next_id_; ++id) limits_.Remove(id);
  limits_.Remove(77777);
  EXPECT_EQ(limits_.num_requests(), 0);
  EXPECT_EQ(limits_.num_tokens(), 0);
  EXPECT_EQ(limits_.num_shares(), 0);
}

}  // namespace
}  // namespace optserve
