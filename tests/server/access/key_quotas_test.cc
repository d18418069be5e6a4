#include "server/access/key_quotas.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "engine/util/error_details.h"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

ApiKey Key(std::string id, KeySettings settings) { return {.id = std::move(id), .settings = settings}; }

class KeyQuotasTest : public testing::Test {
 protected:
  std::unique_ptr<QuotaLease> Admitted(QuotaLease::Clock::time_point now, std::string_view id = "key-1") {
    return quotas_.Admit(id, now).value();
  }

  // The Retry-After of a refusal.
  static int SecondsOf(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    return RetryAfterSeconds(status).value_or(-1);
  }

  KeyQuotas quotas_;
  const QuotaLease::Clock::time_point start_ = QuotaLease::Clock::now() + seconds(1);
};

TEST_F(KeyQuotasTest, RequestsPerMinuteComeBackEvenly) {
  quotas_.Replace({Key("key-1", {.requests_per_minute = 4})});
  for (int i = 0; i < 4; ++i) Admitted(start_);
  EXPECT_EQ(SecondsOf(quotas_.Admit("key-1", start_).status()), 15);
  EXPECT_EQ(SecondsOf(quotas_.Admit("key-1", start_ + milliseconds(14'500)).status()), 1);
  Admitted(start_ + seconds(15));
  EXPECT_EQ(SecondsOf(quotas_.Admit("key-1", start_ + seconds(15)).status()), 15);
  // After a long rest no more than a minute's worth.
  for (int i = 0; i < 4; ++i) Admitted(start_ + seconds(1000));
  EXPECT_FALSE(quotas_.Admit("key-1", start_ + seconds(1000)).ok());
}

TEST_F(KeyQuotasTest, RetryAfterIsEnough) {
  for (const int64_t limit : {1, 3, 7, 59, 61, 1000}) {
    const std::string id = "key-" + std::to_string(limit);
    quotas_.Replace({Key(id, {.requests_per_minute = limit})});
    for (int64_t i = 0; i < limit; ++i) Admitted(start_, id);
    const int wait = SecondsOf(quotas_.Admit(id, start_).status());
    EXPECT_TRUE(quotas_.Admit(id, start_ + seconds(wait)).ok()) << limit;
  }
}

TEST_F(KeyQuotasTest, ConcurrentRequestsEndWithTheirLease) {
  quotas_.Replace({Key("key-1", {.concurrent_requests = 2})});
  auto first = Admitted(start_);
  auto second = Admitted(start_);
  EXPECT_GE(SecondsOf(quotas_.Admit("key-1", start_).status()), 1);
  first->Settle(0);
  auto third = Admitted(start_);
  first.reset();  // its place was given back already
  EXPECT_FALSE(quotas_.Admit("key-1", start_).ok());
  third.reset();
  EXPECT_TRUE(quotas_.Admit("key-1", start_).ok());
}

TEST_F(KeyQuotasTest, TokensAreReservedAndWhatWasNotUsedIsGivenBack) {
  quotas_.Replace({Key("key-1", {.requests_per_minute = 100, .tokens_per_minute = 600})});
  auto first = Admitted(start_);
  EXPECT_TRUE(first->ReserveTokens(500, start_).ok());
  auto second = Admitted(start_);
  EXPECT_EQ(SecondsOf(second->ReserveTokens(200, start_)), 10);
  EXPECT_TRUE(second->ReserveTokens(200, start_ + seconds(10)).ok());
  first->Settle(100, start_ + seconds(10));
  auto third = Admitted(start_ + seconds(10));
  EXPECT_TRUE(third->ReserveTokens(400, start_ + seconds(10)).ok());
  EXPECT_FALSE(Admitted(start_ + seconds(10))->ReserveTokens(1, start_ + seconds(10)).ok());
}

TEST_F(KeyQuotasTest, ARequestLargerThanAMinuteNeedsAWholeMinute) {
  quotas_.Replace({Key("key-1", {.tokens_per_minute = 60})});
  auto first = Admitted(start_);
  EXPECT_TRUE(first->ReserveTokens(100, start_).ok());
  first->Settle(100, start_);
  auto second = Admitted(start_);
  EXPECT_EQ(SecondsOf(second->ReserveTokens(100, start_)), 100);
  EXPECT_EQ(SecondsOf(second->ReserveTokens(1, start_)), 41);
  EXPECT_TRUE(second->ReserveTokens(100, start_ + seconds(100)).ok());
}

TEST_F(KeyQuotasTest, WhatTheTokensRefuseIsNoRequest) {
  quotas_.Replace({Key("key-1", {.requests_per_minute = 1, .tokens_per_minute = 10})});
  auto first = Admitted(start_);
  EXPECT_TRUE(first->ReserveTokens(10, start_).ok());
  first->Settle(10, start_);
  auto second = Admitted(start_ + seconds(60));
  EXPECT_TRUE(second->ReserveTokens(10, start_ + seconds(60)).ok());
  second.reset();
  auto third = Admitted(start_ + seconds(120));
  EXPECT_TRUE(third->ReserveTokens(6, start_ + seconds(120)).ok());
  third->Settle(6, start_ + seconds(120));
  quotas_.Replace({Key("key-1", {.requests_per_minute = 100, .tokens_per_minute = 10})});
  auto fourth = Admitted(start_ + seconds(180));
  EXPECT_TRUE(fourth->ReserveTokens(10, start_ + seconds(180)).ok());
  for (int i = 0; i < 200; ++i)
    EXPECT_FALSE(Admitted(start_ + seconds(180))->ReserveTokens(10, start_ + seconds(180)).ok());
}

TEST_F(KeyQuotasTest, KeysDoNotShareAndUnknownOnesHaveNoLimits) {
  quotas_.Replace(
      {Key("key-1", {.requests_per_minute = 1}), Key("key-2", {.requests_per_minute = 1, .share_weight = 7})});
  Admitted(start_);
  EXPECT_FALSE(quotas_.Admit("key-1", start_).ok());
  EXPECT_EQ(Admitted(start_, "key-2")->share_weight(), 7);
  for (const std::string_view id : {"", "key-3"}) {
    for (int i = 0; i < 100; ++i) EXPECT_EQ(Admitted(start_, id)->share_weight(), 1);
    EXPECT_TRUE(Admitted(start_, id)->ReserveTokens(int64_t{1} << 40, start_).ok());
  }
}

TEST_F(KeyQuotasTest, NewLimitsKeepWhatWasTaken) {
  quotas_.Replace({Key("key-1", {.concurrent_requests = 3})});
  auto first = Admitted(start_);
  auto second = Admitted(start_);
  quotas_.Replace({Key("key-1", {.concurrent_requests = 1})});
  first.reset();
  EXPECT_FALSE(quotas_.Admit("key-1", start_).ok());
  second.reset();
  EXPECT_TRUE(quotas_.Admit("key-1", start_).ok());
  auto last = Admitted(start_);
  quotas_.Replace({});
  EXPECT_TRUE(quotas_.Admit("key-1", start_).ok());
  last.reset();  // of a key that is gone
}

TEST_F(KeyQuotasTest, MessagesNameKeyAndLimit) {
  quotas_.Replace({Key("key-1", {.requests_per_minute = 1})});
  Admitted(start_);
  const absl::Status status = quotas_.Admit("key-1", start_).status();
  EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr("key-1"), HasSubstr("1 requests a minute")));
}

TEST_F(KeyQuotasTest, ManyThreadsTakeNoMoreThanThereIs) {
  quotas_.Replace({Key("key-1", {.requests_per_minute = 50, .concurrent_requests = 1000})});
  std::atomic<int> num_admitted = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) num_admitted += quotas_.Admit("key-1", start_).ok() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_admitted, 50);
}

}  // namespace
}  // namespace optserve
