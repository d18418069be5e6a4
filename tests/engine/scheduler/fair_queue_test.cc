#include "engine/scheduler/fair_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "engine/scheduler/sequence.h"

namespace optserve {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kSecond = 1'000'000'000;

class FairQueueTest : public testing::Test {
 protected:
  RequestState& Push(const std::string& key, const std::string& user = "", int32_t priority = 0, int64_t arrival_ns = 0,
                     int32_t weight = 1) {
    RequestState& request = requests_[++last_id_];
    request.request = {.id = last_id_, .api_key_id = key, .user = user, .priority = priority, .share_weight = weight};
    request.arrival = last_id_;
    request.arrival_ns = arrival_ns;
    queue_.Push(request);
    return request;
  }

  // Starts the next request, serves it for `cost` and ends it; returns its id.
  RequestId Serve(int64_t cost = 1000) {
    RequestState* request = queue_.Head();
    if (request == nullptr) return 0;
    queue_.Start(*request);
    queue_.Charge(*request, cost);
    queue_.Forget(*request);
    return request->request.id;
  }

  std::vector<RequestId> ServeAll() {
    std::vector<RequestId> order;
    while (queue_.size() > 0) order.push_back(Serve());
    return order;
  }

  FairQueue queue_;
  std::map<RequestId, RequestState> requests_;
  RequestId last_id_ = 0;
};

TEST_F(FairQueueTest, OneUserIsServedInOrder) {
  for (int i = 0; i < 4; ++i) Push("");
  EXPECT_EQ(queue_.size(), 4);
  EXPECT_THAT(ServeAll(), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(queue_.Head(), nullptr);
}

TEST_F(FairQueueTest, KeysTakeTurnsHoweverManyRequestsOneHas) {
  for (int i = 0; i < 4; ++i) Push("flood");  // 1 .. 4
  Push("a");
  Push("b");
  Push("a");
  EXPECT_THAT(ServeAll(), ElementsAre(1, 5, 6, 2, 7, 3, 4));
}

TEST_F(FairQueueTest, UsersTakeTurnsWithinTheirKey) {
  for (int i = 0; i < 3; ++i) Push("k", "x");  // 1 .. 3
  Push("k", "y");
  for (int i = 0; i < 2; ++i) Push("l", "z");  // 5, 6
  EXPECT_THAT(ServeAll(), ElementsAre(1, 5, 4, 6, 2, 3));
}

TEST_F(FairQueueTest, WhatCountsIsCostNotRequests) {
  for (int i = 0; i < 8; ++i) Push("long");
  for (int i = 0; i < 8; ++i) Push("short");  // 9 ..
  int short_served = 0;
  for (int i = 0; i < 8; ++i) {
    const bool is_long = queue_.Head()->request.id <= 8;
    Serve(is_long ? 3000 : 1000);
    short_served += is_long ? 0 : 1;
  }
  EXPECT_EQ(short_served, 6);
}

TEST_F(FairQueueTest, WeightsDivideTheMachine) {
  for (int i = 0; i < 40; ++i) Push("one", "", 0, 0, 1);
  for (int i = 0; i < 40; ++i) Push("three", "", 0, 0, 3);
  int of_three = 0;
  for (int i = 0; i < 40; ++i) of_three += Serve() > 40 ? 1 : 0;
  EXPECT_EQ(of_three, 30);
}

TEST_F(FairQueueTest, WhoRunsPaysWhileOthersWait) {
  Push("a");
  RequestState* running = queue_.Head();
  queue_.Start(*running);
  Push("a");
  Push("b");
  queue_.Charge(*running, 5000);
  EXPECT_EQ(queue_.Head()->request.api_key_id, "b");
  queue_.Forget(*running);
  EXPECT_THAT(ServeAll(), ElementsAre(3, 2));
}

TEST_F(FairQueueTest, APauseSavesNothingUp) {
  Push("sleeper");
  Serve();
  for (int i = 0; i < 20; ++i) Push("busy");  // 2 .. 21
  for (int i = 0; i < 10; ++i) Serve();
  for (int i = 0; i < 5; ++i) Push("sleeper");  // 22 ..
  std::vector<bool> is_sleeper;
  for (int i = 0; i < 6; ++i) is_sleeper.push_back(Serve() > 21);
  EXPECT_EQ(std::ranges::count(is_sleeper, true), 3) << "half of the turns, not all of those it has missed";
}

TEST_F(FairQueueTest, APauseDoesNotPayDebts) {
  for (int i = 0; i < 4; ++i) Push("other");
  Push("greedy");
  Serve();
  Serve(100000);  // greedy's only request
  Push("greedy");
  EXPECT_THAT(ServeAll(), ElementsAre(2, 3, 4, 6));
}

TEST_F(FairQueueTest, SharesAreForgottenWhenTheyOweNothing) {
  for (int i = 0; i < 100; ++i) Push("k", "user " + std::to_string(i));
  for (int i = 0; i < 100; ++i) Push("l", "user " + std::to_string(i));
  ServeAll();
  for (int i = 0; i < 3; ++i) {
    Push("m");
    Serve(1000000);
  }
  EXPECT_LE(queue_.num_shares(), 2);
}

TEST_F(FairQueueTest, PriorityOrdersOneUsersRequests) {
  Push("", "", 0);
  Push("", "", 1);
  Push("", "", -1);
  EXPECT_THAT(ServeAll(), ElementsAre(3, 1, 2));
}

TEST_F(FairQueueTest, PriorityDoesNotJumpOtherUsers) {
  Push("a", "", 0);
  Push("b", "", -100);
  Push("b", "", -100);
  EXPECT_THAT(ServeAll(), ElementsAre(1, 2, 3));
}

TEST_F(FairQueueTest, WaitingMakesUrgent) {
  Push("", "", 1, 0);
  Push("", "", 0, 9 * kSecond);
  Push("", "", 0, 11 * kSecond);
  Push("", "", std::numeric_limits<int32_t>::min(), 12 * kSecond);
  Push("", "", std::numeric_limits<int32_t>::max(), 0);
  EXPECT_THAT(ServeAll(), ElementsAre(4, 2, 1, 3, 5));
}

TEST_F(FairQueueTest, RemovedRequestsAreGone) {
  Push("a");
  RequestState& second = Push("b");
  Push("b");
  queue_.Remove(second);
  queue_.Forget(second);
  EXPECT_EQ(queue_.size(), 2);
  EXPECT_THAT(ServeAll(), ElementsAre(1, 3));
}

TEST(RequestCostTest, ChunksCostWhatTheWholeCosts) {
  EXPECT_EQ(RequestCost(1, 0), kCostContext + 1);
  EXPECT_EQ(RequestCost(30, 10) + RequestCost(7, 40), RequestCost(37, 10));
}

}  // namespace
}  // namespace optserve
