#include "server/access/usage_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <vector>

#include "engine/util/metrics.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

class UsageLedgerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "usage_ledger_test_XXXXXX").string();
    directory_ = mkdtemp(name.data());
    options_.file = (directory_ / "usage.jsonl").string();
    options_.retry_every = options_.sync_every = std::chrono::milliseconds(10);
    options_.metrics = &metrics_;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::vector<nlohmann::json> Records() const {
    std::vector<nlohmann::json> records;
    std::ifstream in(options_.file);
    for (std::string line; std::getline(in, line);) records.push_back(nlohmann::json::parse(line));
    return records;
  }

  void Write(const std::string& text) const { std::ofstream(options_.file) << text; }

  static void WaitFor(const std::function<bool()>& holds) {
    for (int i = 0; i < 2000 && !holds(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_TRUE(holds());
  }

  std::filesystem::path directory_;
  Metrics metrics_{"1"};
  UsageLedger::Options options_;
};

TEST_F(UsageLedgerTest, ARecordIsALineOfJson) {
  {
    const auto ledger = UsageLedger::Open(options_).value();
    ledger->Append({.request_id = "req-1",
                    .id = "cmpl-1",
                    .key_id = "key-1",
                    .user = "a\"b\nc\xff",
                    .model = "m",
                    .prompt_tokens = 1,
                    .completion_tokens = 2,
                    .cached_tokens = 3,
                    .engine_seconds = 0.25,
                    .finish = "stop"});
    ledger->Append({.id = "cmpl-2", .finish = "length"});
  }
  const std::vector<nlohmann::json> records = Records();
  ASSERT_THAT(records, SizeIs(2));
  nlohmann::json first = records[0];
  EXPECT_THAT(first["time"].get<std::string>(), testing::MatchesRegex("20..-..-..T..:..:..\\....Z"));
  first.erase("time");
  EXPECT_EQ(first, nlohmann::json::parse(R"({"request_id":"req-1","id":"cmpl-1","key":"key-1","user":"a\"b\nc\ufffd",
      "model":"m","prompt_tokens":1,"completion_tokens":2,"cached_tokens":3,"engine_seconds":0.25,"finish":"stop"})"));
  EXPECT_EQ(records[1]["request_id"], "cmpl-2");
}

TEST_F(UsageLedgerTest, ALineWithoutItsEndIsCutOffAndTheOthersStay) {
  for (const std::string& broken : {std::string("{\"a"), std::string(10'000, 'x'), std::string()}) {
    Write("{\"old\":1}\n" + broken);
    UsageLedger::Open(options_).value()->Append({.id = "cmpl-1"});
    const std::vector<nlohmann::json> records = Records();
    ASSERT_THAT(records, SizeIs(2)) << broken.size();
    EXPECT_EQ(records[0]["old"], 1);
    EXPECT_EQ(records[1]["id"], "cmpl-1");
  }
  Write("no line at all");
  UsageLedger::Open(options_).value()->Append({.id = "cmpl-1"});
  EXPECT_THAT(Records(), SizeIs(1));
}

TEST_F(UsageLedgerTest, ManyThreadsWriteWholeLines) {
  {
    const auto ledger = UsageLedger::Open(options_).value();
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        for (int j = 0; j < 200; ++j)
          ledger->Append({.id = std::to_string(i * 1000 + j), .user = std::string(500, 'u')});
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::set<std::string> ids;
  for (const nlohmann::json& record : Records()) ids.insert(record["id"]);
  EXPECT_THAT(ids, SizeIs(800));
}

TEST_F(UsageLedgerTest, AMovedFileIsLeftAndMadeAnewByReopen) {
  const auto ledger = UsageLedger::Open(options_).value();
  ledger->Append({.id = "1"});
  WaitFor([&] { return Records().size() == 1; });
  std::filesystem::rename(options_.file, options_.file + ".1");
  ledger->Append({.id = "2"});
  ASSERT_TRUE(ledger->Reopen().ok());
  ledger->Append({.id = "3"});
  WaitFor([&] { return !Records().empty() && Records().back()["id"] == "3"; });
  std::filesystem::remove_all(directory_ / "usage.jsonl");
  std::filesystem::create_directory(directory_ / "usage.jsonl");
  EXPECT_FALSE(ledger->Reopen().ok());
}

TEST_F(UsageLedgerTest, WhatCannotBeWrittenWaitsUpToItsLimitAndIsThenCounted) {
  std::filesystem::create_symlink("/dev/full", options_.file);
  options_.max_waiting_bytes = 1000;
  const auto ledger = UsageLedger::Open(options_).value();
  for (int i = 0; i < 20; ++i) ledger->Append({.id = std::to_string(i), .user = std::string(100, 'u')});
  WaitFor([&] { return metrics_.Render({}, true).find("optserve_usage_log_failures_total 0") == std::string::npos; });
  const std::string text = metrics_.Render({}, true);
  const size_t place = text.find("\noptserve_usage_records_lost_total ");
  ASSERT_NE(place, std::string::npos);
  const int num_lost = std::stoi(text.substr(place + 35));
  EXPECT_GE(num_lost, 15);
  std::filesystem::remove(options_.file);
  ASSERT_TRUE(ledger->Reopen().ok());
  WaitFor(
      [&] { return std::filesystem::exists(options_.file) && Records().size() == static_cast<size_t>(20 - num_lost); });
  EXPECT_EQ(Records()[0]["id"], "0");
}

TEST_F(UsageLedgerTest, AFileThatCannotBeOpenedIsAnError) {
  options_.file = (directory_ / "none" / "usage").string();
  const absl::Status status = UsageLedger::Open(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(options_.file));
}

}  // namespace
}  // namespace optserve
