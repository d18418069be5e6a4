// Every checkpoint of tests/data/golden/corrupt does what its manifest says: what is unusual but right loads, with the
// right weights; what is broken is refused within a second, in one line that names file, tensor and reason.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "tests/support/plan_runner.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

std::vector<Json> Entries() {
  std::vector<Json> entries;
  const Json manifest = Json::parse(ReadTestData("golden/corrupt/manifest.json"));
  for (const Json& entry : manifest["entries"]) entries.push_back(entry);
  return entries;
}

void Lay(const Json& entry, const TempDir& root) {
  for (const auto& [name, source] : entry["files"].items()) {
    root.Write(std::filesystem::path(entry["path"].get<std::string>()) / name,
               ReadTestData(TestDataPath("golden/corrupt/" + source.get<std::string>())));
  }
}

// What `serve --verify` does before it answers.
absl::Status Load(const std::string& directory) {
  absl::StatusOr<std::unique_ptr<Executor>> executor =
      MakeLocalExecutor({.model_path = directory, .max_num_seqs = 2, .num_threads = 1, .verify = true});
  if (!executor.ok()) return executor.status();
  return (*executor)->Start(nullptr).status();
}

class CorruptCheckpoints : public testing::TestWithParam<Json> {
 protected:
  CorruptCheckpoints() {
    // One entry climbs out to this neighbour.
    for (const Json& entry : Entries()) {
      if (entry["path"] == "ok_plain" || entry == GetParam()) Lay(entry, root_);
    }
    directory_ = (root_.path() / GetParam()["path"].get<std::string>()).string();
  }

  TempDir root_;
  std::string directory_;
};

TEST_P(CorruptCheckpoints, DoWhatTheManifestSays) {
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = Load(directory_);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));

  const auto expect = GetParam()["expect"].get<std::string>();
  if (status.ok()) {
    EXPECT_THAT(expect, testing::StartsWith("load"));
    return;
  }
  const std::string message(status.message());
  EXPECT_THAT(expect, testing::HasSubstr("refuse")) << message;
  EXPECT_THAT(message, testing::Not(testing::HasSubstr("\n")));
  EXPECT_LT(message.size(), 1000) << message;
  for (const Json& name : GetParam()["error_should_name"]) {
    std::vector<testing::Matcher<std::string>> alternatives;
    std::istringstream stream(name.get<std::string>());
    for (std::string part; std::getline(stream, part, '|');) alternatives.push_back(testing::HasSubstr(part));
    EXPECT_THAT(message, testing::AnyOfArray(alternatives));
  }
}

TEST_P(CorruptCheckpoints, GiveTheExpectedNumbersIfTheyLoad) {
  const Json manifest = Json::parse(ReadTestData("golden/corrupt/manifest.json"));
  const Json& expected = manifest["ok_expected"];
  if (!Load(directory_).ok()) return;
  auto executor = MakeLocalExecutor({.model_path = directory_, .max_num_seqs = 2, .num_threads = 1});
  ASSERT_TRUE(executor.ok());
  const absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  ASSERT_TRUE(start.ok()) << start.status();
  const auto ids = expected["ids"].get<std::vector<int32_t>>();
  const RunResult result = RunPrompts(**executor, start->kv, {ids}, {.max_new_tokens = 1})[0];
  for (size_t i = 1; i < ids.size(); ++i) {
    EXPECT_NEAR(result.prompt_scores[i - 1].logprob, expected["token_logprobs"][i].get<float>(), 5e-5f);
  }
  EXPECT_EQ(result.generated[0].id, expected["logits_last"]["argmax"].get<int32_t>());
}

INSTANTIATE_TEST_SUITE_P(Manifest, CorruptCheckpoints, testing::ValuesIn(Entries()),
                         [](const auto& info) { return info.param["path"].template get<std::string>(); });

}  // namespace
}  // namespace optserve
