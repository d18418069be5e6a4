#include "server/access/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <sstream>
#include <thread>

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class ApiKeysTest : public testing::Test {
 protected:
  ApiKeysTest() {
    std::string pattern = testing::TempDir() + "keysXXXXXX";
    directory_ = mkdtemp(pattern.data());
    file_ = directory_ / "keys";
  }
  ~ApiKeysTest() override { std::filesystem::remove_all(directory_); }

  void Write(std::string_view text) {
    std::ofstream(file_) << text;
    chmod(file_.c_str(), 0600);
  }
  std::string Text() {
    std::ostringstream text;
    text << std::ifstream(file_).rdbuf();
    return text.str();
  }

  std::filesystem::path directory_;
  std::filesystem::path file_;
};

TEST_F(ApiKeysTest, AKeyIsMadeOnceAndOnlyItsHashKept) {
  const NewApiKey made = AddApiKey(file_, "Ana's notebook").value();
  EXPECT_THAT(made.secret, MatchesRegex("sk-[0-9a-f]+"));
  EXPECT_EQ(made.secret.size(), 3u + 48u);
  EXPECT_THAT(made.key.id, MatchesRegex("key-[0-9a-f]+"));
  EXPECT_EQ(Text().find(made.secret.substr(3)), std::string::npos);
  struct stat info {};
  ASSERT_EQ(stat(file_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);

  const std::vector<ApiKey> keys = ReadApiKeys(file_).value();
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(keys[0].id, made.key.id);
  EXPECT_EQ(keys[0].name, "Ana's notebook");
  EXPECT_EQ(keys[0].hash, HashApiKey(made.secret));
  EXPECT_THAT(keys[0].created, MatchesRegex("....-..-..T..:..:..Z"));
}

TEST_F(ApiKeysTest, HashIsSha256) {
  // FIPS 180-2, appendix B.1.
  const ApiKeyHash hash = HashApiKey("abc");
  EXPECT_EQ(hash[0], 0xba);
  EXPECT_EQ(hash[1], 0x78);
  EXPECT_EQ(hash[31], 0xad);
}

TEST_F(ApiKeysTest, RevokingKeepsTheOthersAndWhatPeopleWrote) {
  Write("# for the lab\n\n");
  const NewApiKey first = AddApiKey(file_, "one").value();
  const NewApiKey second = AddApiKey(file_, "").value();
  EXPECT_NE(first.secret, second.secret);
  EXPECT_EQ(RevokeApiKey(file_, first.key.id).value().name, "one");
  const std::vector<ApiKey> keys = ReadApiKeys(file_).value();
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(keys[0].id, second.key.id);
  EXPECT_THAT(Text(), testing::StartsWith("# for the lab\n\n"));
  EXPECT_EQ(RevokeApiKey(file_, first.key.id).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ApiKeysTest, ALastLineWithoutItsEndIsNotRunTogether) {
  Write("# no end");
  const NewApiKey made = AddApiKey(file_, "").value();
  EXPECT_EQ(ReadApiKeys(file_).value().size(), 1u);
  EXPECT_THAT(Text(), HasSubstr("# no end\n" + made.key.id));
}

TEST_F(ApiKeysTest, KeysMadeAtTheSameTimeAreAllThere) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 4; ++j) {
        const NewApiKey made = AddApiKey(file_, "many").value();
        if (j % 2 == 0) {
          EXPECT_TRUE(RevokeApiKey(file_, made.key.id).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ReadApiKeys(file_).value().size(), 8u * 2u);
}

TEST_F(ApiKeysTest, WhatIsWrongIsSaidWithItsLine) {
  const std::string hash(64, 'a');
  for (const std::string& bad : std::vector<std::string>{
           "hello", "key-1", "key-1 abc 2026", "id " + hash + " 2026-01-01T00:00:00Z", "key-1 " + hash,
           "key-1 " + std::string(64, 'A') + " 2026", "key-1 " + std::string(64, 'g') + " 2026"}) {
    Write("# fine\n" + bad + "\n");
    const absl::Status status = ReadApiKeys(file_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line 2")) << bad;
    EXPECT_EQ(status.message().find(hash), std::string::npos);
  }
  const std::string line = "key-1 " + hash + " 2026-01-01T00:00:00Z\n";
  Write(line + line);
  EXPECT_THAT(std::string(ReadApiKeys(file_).status().message()), HasSubstr("twice"));
}

TEST_F(ApiKeysTest, FilesThatCannotBeTrustedOrReadAreRefused) {
  EXPECT_EQ(ReadApiKeys(file_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadApiKeys(directory_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(AddApiKey(directory_ / "none" / "keys", "").ok());
  AddApiKey(file_, "").value();
  chmod(file_.c_str(), 0620);
  const absl::Status status = ReadApiKeys(file_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 600"));
  EXPECT_FALSE(AddApiKey(file_, "").ok());
}

TEST_F(ApiKeysTest, SettingsAreKeptAndChangedOneByOne) {
  const KeySettings settings = {.requests_per_minute = 60, .concurrent_requests = 4, .share_weight = 2};
  const NewApiKey made = AddApiKey(file_, "a name of words", settings).value();
  const NewApiKey plain = AddApiKey(file_, "").value();
  std::vector<ApiKey> keys = ReadApiKeys(file_).value();
  EXPECT_EQ(keys[0].settings, settings);
  EXPECT_EQ(keys[0].name, "a name of words");
  EXPECT_EQ(keys[1].settings, KeySettings());
  const std::vector<KeyChange> changes = {{"tokens_per_minute", 1000}, {"requests_per_minute", 0}};
  EXPECT_TRUE(ChangeApiKey(file_, made.key.id, changes).ok());
  keys = ReadApiKeys(file_).value();
  EXPECT_EQ(keys[0].settings, (KeySettings{.tokens_per_minute = 1000, .concurrent_requests = 4, .share_weight = 2}));
  EXPECT_EQ(keys[0].hash, made.key.hash);
  EXPECT_EQ(keys[0].name, "a name of words");
  EXPECT_EQ(ChangeApiKey(file_, "key-none", changes).status().code(), absl::StatusCode::kNotFound);
  for (const KeyChange& bad : std::vector<KeyChange>{{"share_weight", 0}, {"share_weight", 1001}, {"speed", 1}}) {
    EXPECT_EQ(ChangeApiKey(file_, plain.key.id, {&bad, 1}).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ApiKeysTest, SettingsThatMeanNothingAreRefused) {
  const std::string line = "key-1 " + std::string(64, 'a') + " 2026-01-01T00:00:00Z ";
  for (const std::string& bad : std::vector<std::string>{"speed=1", "share_weight=0", "share_weight=x", "share_weight=",
                                                         "=1", "requests_per_minute=-1", "tokens_per_minute=1.5"}) {
    Write(line + bad + " Ana\n");
    EXPECT_THAT(std::string(ReadApiKeys(file_).status().message()), HasSubstr("line 1")) << bad;
  }
  Write(line + "Ana's a=b\n");
  EXPECT_EQ(ReadApiKeys(file_).value()[0].name, "Ana's a=b");
  EXPECT_FALSE(AddApiKey(file_, "a=b").ok());
}

TEST_F(ApiKeysTest, NamesAreOneLine) {
  EXPECT_FALSE(AddApiKey(file_, "two\nlines").ok());
  EXPECT_FALSE(AddApiKey(file_, std::string(201, 'a')).ok());
  EXPECT_TRUE(AddApiKey(file_, std::string(200, 'a')).ok());
}

}  // namespace
}  // namespace optserve
