#include "server/access/access_control.h"

#include <gtest/gtest.h>

#include "engine/util/error_details.h"

namespace optserve {
namespace {

using Clock = AccessControl::Clock;

std::vector<ApiKey> Keys(std::vector<std::string> secrets) {
  std::vector<ApiKey> keys;
  for (const std::string& secret : secrets) keys.push_back({.id = "key-" + secret, .hash = HashApiKey("sk-" + secret)});
  return keys;
}

absl::StatusCode CodeOf(AccessControl& access, std::string_view authorization, std::string_view address = "1.2.3.4",
                        Clock::time_point now = Clock::time_point()) {
  return access.Authorize(authorization, address, now).status().code();
}

TEST(AccessControlTest, ARightKeyIsWhoeverHoldsIt) {
  AccessControl access(Keys({"a", "b"}), {});
  EXPECT_EQ(access.Authorize("Bearer sk-a", "").value(), "key-a");
  EXPECT_EQ(access.Authorize("bearer   sk-b", "").value(), "key-b");
}

TEST(AccessControlTest, EverythingElseIsNobody) {
  AccessControl access(Keys({"a"}), {});
  for (const char* authorization : {"", "sk-a", "Bearer", "Bearer ", "Bearer  ", "Basic sk-a", "Bearer sk-",
                                    "Bearer sk-ab", "Bearer sk-A", "Bearer sk-a ", "Bearer Bearer sk-a"}) {
    EXPECT_EQ(CodeOf(access, authorization, authorization), absl::StatusCode::kUnauthenticated) << authorization;
  }
  AccessControl nobody({}, {});
  EXPECT_EQ(CodeOf(nobody, "Bearer sk-a"), absl::StatusCode::kUnauthenticated);
}

TEST(AccessControlTest, TenBadKeysAMinuteFromOneAddressAreEnough) {
  AccessControl access(Keys({"a"}), {});
  const Clock::time_point begin{};
  for (int i = 0; i < 10; ++i) EXPECT_EQ(CodeOf(access, "Bearer wrong"), absl::StatusCode::kUnauthenticated) << i;
  const absl::Status status = access.Authorize("Bearer wrong", "1.2.3.4", begin + std::chrono::seconds(20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RetryAfterSeconds(status), 41);
  // Others are not concerned, nor is who has a key, nor is having none.
  EXPECT_EQ(CodeOf(access, "Bearer wrong", "1.2.3.5"), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(access.Authorize("Bearer sk-a", "1.2.3.4", begin).ok());
  EXPECT_EQ(CodeOf(access, ""), absl::StatusCode::kUnauthenticated);
  // The next minute is another.
  EXPECT_EQ(CodeOf(access, "Bearer wrong", "1.2.3.4", begin + std::chrono::seconds(60)),
            absl::StatusCode::kUnauthenticated);
}

TEST(AccessControlTest, ManyAddressesAreForgottenTheOldestFirst) {
  AccessControl access(Keys({"a"}), {.bad_keys_per_minute = 1, .max_addresses = 3});
  const auto at = [](int seconds) { return Clock::time_point() + std::chrono::seconds(seconds); };
  for (int i = 0; i < 4; ++i) CodeOf(access, "Bearer wrong", std::to_string(i), at(i));
  EXPECT_EQ(CodeOf(access, "Bearer wrong", "3", at(5)), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(CodeOf(access, "Bearer wrong", "1", at(5)), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(CodeOf(access, "Bearer wrong", "0", at(5)), absl::StatusCode::kUnauthenticated);
}

TEST(AccessControlTest, ReplacedKeysTakeEffectAtOnce) {
  AccessControl access(Keys({"a"}), {});
  access.Replace(Keys({"b"}));
  EXPECT_FALSE(access.Authorize("Bearer sk-a", "").ok());
  EXPECT_TRUE(access.Authorize("Bearer sk-b", "").ok());
}

}  // namespace
}  // namespace optserve
