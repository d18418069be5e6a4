#include "server/text/tokenizer_files.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "server/text/tokenizer.h"
#include "server/text/utf8.h"
#include "tests/server/text/random_text.h"

namespace optserve {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// A small right tokenizer in a folder of its own, to be broken one file at a time.
class TokenizerFilesTest : public testing::Test {
 protected:
  TokenizerFilesTest() {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(testing::TempDir()) / ("optserve_tokenizer_files_" + name);
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    vocab_ = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
    int32_t substitute = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      vocab_[EncodeUtf8(is_printable ? byte : substitute++)] = 4 + byte;
    }
    vocab_["ab"] = 260;
    vocab_["Ġab"] = 261;
    Write("vocab.json", vocab_.dump());
    Write("merges.txt", "#version: 0.2\na b\nĠ ab\n");
  }
  ~TokenizerFilesTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& file, const std::string& content) {
    std::ofstream(directory_ / file, std::ios::binary) << content;
  }
  void Remove(const std::string& file) { std::filesystem::remove(directory_ / file); }

  // What Load says, which must be InvalidArgument.
  std::string Refusal() {
    const absl::Status status = Tokenizer::Load(directory_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(FindInvalidUtf8(std::string(status.message())), std::nullopt);
    EXPECT_LT(status.message().size(), 300u);
    return std::string(status.message());
  }

  std::filesystem::path directory_;
  json vocab_;
};

TEST_F(TokenizerFilesTest, LoadsWhatIsRight) {
  const auto tokenizer = Tokenizer::Load(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->size(), 262);
  EXPECT_THAT(tokenizer->Encode("ab ab</s>").value(), ElementsAre(2, 260, 261, 2));
}

TEST_F(TokenizerFilesTest, NoTokenizerAtAllIsNotFound) {
  Remove("vocab.json");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("merges.txt"), HasSubstr("vocab.json is missing")));
  Remove("merges.txt");
  EXPECT_EQ(Tokenizer::Load(directory_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Tokenizer::Load(directory_ / "nothing").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TokenizerFilesTest, RefusesABrokenVocabulary) {
  const auto refusal = [&](const std::string& content) {
    Write("vocab.json", content);
    return Refusal();
  };
  const auto with_entry = [&](const std::string& entry) {
    const std::string right = vocab_.dump();
    return refusal(right.substr(0, right.size() - 1) + "," + entry + "}");
  };
  EXPECT_THAT(refusal(""), HasSubstr("vocab.json is not JSON"));
  EXPECT_THAT(refusal("{\"a\": 1"), HasSubstr("vocab.json is not JSON"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("vocab.json must hold a JSON object"));
  EXPECT_THAT(refusal(std::string(100000, '[')), HasSubstr("vocab.json must hold a JSON object"));
  EXPECT_THAT(refusal("7"), HasSubstr("vocab.json must hold a JSON object"));
  EXPECT_THAT(refusal("{}"), HasSubstr("no token for the byte 0x00"));
  EXPECT_THAT(refusal("{\"\xFF\": 1}"), HasSubstr("vocab.json is not UTF-8: bad byte at offset 2"));
  EXPECT_THAT(with_entry("\"x1\": \"5\""), HasSubstr("the id of \"x1\" must be an integer"));
  EXPECT_THAT(with_entry("\"x1\": 1.5"), HasSubstr("the id of \"x1\" must be an integer"));
  EXPECT_THAT(with_entry("\"x1\": null"), HasSubstr("must be an integer"));
  EXPECT_THAT(with_entry("\"x1\": {\"y\": 1}"), HasSubstr("must be an integer"));
  EXPECT_THAT(with_entry("\"x1\": -1"), HasSubstr("is -1, it must not be negative"));
  EXPECT_THAT(with_entry("\"x1\": 4000000000"), HasSubstr("is 4000000000, the limit is 1048575"));
  EXPECT_THAT(with_entry("\"x1\": 99999999999999999999999"), HasSubstr("must be an integer"));
  EXPECT_THAT(with_entry("\"x1\": 7"), HasSubstr("the id 7 is there twice"));
  EXPECT_THAT(with_entry("\"ab\": 300"), HasSubstr("the token \"ab\" is there twice"));
  EXPECT_THAT(with_entry("\"\": 300"), HasSubstr("the token of id 300 is empty"));
  EXPECT_THAT(with_entry("\"\\u4e2d\": 300"), HasSubstr("the token \"\\u4e2d\" is not in the byte alphabet"));
  EXPECT_THAT(with_entry("\"\\u4e2d" + std::string(100000, 'x') + "\": 300"), HasSubstr("is not in the byte alphabet"));
}

TEST_F(TokenizerFilesTest, RefusesBrokenMerges) {
  const auto refusal = [&](const std::string& content) {
    Write("merges.txt", content);
    return Refusal();
  };
  EXPECT_THAT(refusal("#version: 0.2\na\n"), HasSubstr("merges.txt line 2: must be two tokens"));
  EXPECT_THAT(refusal("a b\na b c\n"), HasSubstr("merges.txt line 2: must be two tokens"));
  EXPECT_THAT(refusal("a b\n\na c\n"), HasSubstr("merges.txt line 2"));
  EXPECT_THAT(refusal("a c\n"), HasSubstr("merges.txt line 1: the token \"ac\" is not in vocab.json"));
  EXPECT_THAT(refusal("zz b\n"), HasSubstr("the token \"zz\" is not in vocab.json"));
  EXPECT_THAT(refusal("a b\na b\nĠ ab\n"), HasSubstr("merges.txt: merge 2"));
  EXPECT_THAT(refusal("a \xC3\n"), HasSubstr("merges.txt is not UTF-8: bad byte at offset 2"));
}

// What is left of the file reads like a whole one; only the vocabulary tells.
TEST_F(TokenizerFilesTest, RefusesMergesThatAreCutOff) {
  const std::string whole = "#version: 0.2\na b\nĠ ab\n";
  for (size_t size = 0; size + 1 < whole.size(); ++size) {
    Write("merges.txt", whole.substr(0, size));
    const bool in_character = size == 19;
    EXPECT_THAT(Refusal(), AllOf(HasSubstr("merges.txt"), HasSubstr(in_character ? "not UTF-8" : "cut off"))) << size;
  }
  Write("merges.txt", whole.substr(0, whole.size() - 1));  // all but the last line's end
  EXPECT_TRUE(Tokenizer::Load(directory_).ok());
}

TEST_F(TokenizerFilesTest, SpecialTokensNeedNoMerge) {
  vocab_["<ab>"] = 262;    // looks like one
  vocab_["[abab]"] = 263;  // said to be one
  vocab_["b>"] = 264;
  Write("vocab.json", vocab_.dump());
  EXPECT_THAT(Refusal(), HasSubstr("none of its 3 lines makes \"b>\""));
  Write("merges.txt", "#version: 0.2\na b\nĠ ab\nb >\n");
  Write("special_tokens_map.json", R"({"mask_token": "[abab]"})");
  EXPECT_TRUE(Tokenizer::Load(directory_).ok()) << Tokenizer::Load(directory_).status();
}

TEST_F(TokenizerFilesTest, RefusesABrokenConfiguration) {
  const auto refusal = [&](const char* file, const std::string& content) {
    Write(file, content);
    std::string message = Refusal();
    Remove(file);
    return message;
  };
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    EXPECT_THAT(refusal(file, "{"), HasSubstr(std::string(file) + " is not JSON"));
    EXPECT_THAT(refusal(file, "[]"), HasSubstr(std::string(file) + " must hold a JSON object"));
    EXPECT_THAT(refusal(file, R"({"eos_token": 2})"), AllOf(HasSubstr(file), HasSubstr("eos_token must be a string")));
    EXPECT_THAT(refusal(file, R"({"pad_token": ""})"), HasSubstr("pad_token is empty"));
    EXPECT_THAT(refusal(file, R"({"pad_token": {"id": 1}})"), HasSubstr("pad_token has no content"));
    EXPECT_THAT(refusal(file, R"({"pad_token": {"content": "<pad>", "lstrip": true}})"), HasSubstr("lstrip"));
    EXPECT_THAT(refusal(file, R"({"bos_token": "<bos>"})"), HasSubstr("no id for the bos_token \"<bos>\""));
    EXPECT_THAT(refusal(file, R"({"additional_special_tokens": "x"})"), HasSubstr("must be a list"));
    EXPECT_THAT(refusal(file, R"({"additional_special_tokens": ["<x>"]})"), HasSubstr("no id for the token \"<x>\""));
  }
  const auto config_refusal = [&](const std::string& content) { return refusal("tokenizer_config.json", content); };
  EXPECT_THAT(config_refusal(R"({"add_bos_token": 1})"), HasSubstr("add_bos_token must be true or false"));
  EXPECT_THAT(config_refusal(R"({"add_bos_token": true, "bos_token": null})"), HasSubstr("bos_token is null"));
  EXPECT_THAT(config_refusal(R"({"add_prefix_space": true})"), HasSubstr("add_prefix_space must be false"));
  EXPECT_THAT(config_refusal(std::string(1 << 20, '[')), HasSubstr("is not JSON"));
  EXPECT_THAT(config_refusal(std::string(5 << 20, ' ')), HasSubstr("such a file has at most 4194304"));
  json many;
  for (int id = 1000; id < 2025; ++id) many["added_tokens_decoder"][std::to_string(id)] = fmt::format("<{}>", id);
  EXPECT_THAT(config_refusal(many.dump()), HasSubstr("declare 1025 tokens, the limit is 1024"));
  EXPECT_THAT(config_refusal(R"({"added_tokens_decoder": []})"), HasSubstr("added_tokens_decoder must be an object"));
  EXPECT_THAT(config_refusal(R"({"added_tokens_decoder": {"x": "y"}})"), HasSubstr("the id \"x\""));
  EXPECT_THAT(config_refusal(R"({"added_tokens_decoder": {"9999999": "y"}})"), HasSubstr("an integer from 0 to"));
  EXPECT_THAT(config_refusal(R"({"added_tokens_decoder": {"9": {"content": "ab"}}})"), HasSubstr("has id 9, but 260"));
  EXPECT_THAT(config_refusal(R"({"added_tokens_decoder": {"9": {"content": "<n>"}}})"), HasSubstr("another token"));
}

TEST_F(TokenizerFilesTest, TheConfigurationNamesTheSpecialTokens) {
  Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>", "pad_token": null, "add_bos_token": true,
        "added_tokens_decoder": {"270": {"content": "中", "special": true}, "271": {"content": "<n>", "special": false}}})");
  Write("special_tokens_map.json", R"({"unk_token": {"content": "<unk>", "lstrip": false}})");
  const auto tokenizer = Tokenizer::Load(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->bos_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->unk_id(), 3);
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer->size(), 272);
  EXPECT_THAT(tokenizer->Encode("中<n>ab").value(), ElementsAre(0, 270, 271, 260));
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{270, 271, 265}, /*skip_special=*/true), "<n>");
  EXPECT_EQ(tokenizer->TokenText(265), "token_id:265");  // a hole in the numbering
}

TEST_F(TokenizerFilesTest, OfAddedTokensThatStartAlikeTheLongestIsTaken) {
  Write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"270": "<n>", "271": {"content": "<n><n>"}, "272": "<n>a"}})");
  const auto tokenizer = Tokenizer::Load(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(tokenizer->Encode("<n><n><n>ab<n>b").value(), ElementsAre(271, 272, 4 + 'b', 270, 4 + 'b'));
}

TEST_F(TokenizerFilesTest, BosIsAddedOnlyWhenTheConfigurationSaysSo) {
  Write("tokenizer_config.json", "{}");
  EXPECT_THAT(Tokenizer::Load(directory_)->Encode("ab").value(), ElementsAre(260));
}

TEST_F(TokenizerFilesTest, RandomDamageIsRefusedOrHarmless) {
  std::mt19937 random(6);
  const std::string right = vocab_.dump();
  const std::string merges = "#version: 0.2\na b\nĠ ab\n";
  for (int round = 0; round < 1500; ++round) {
    std::string damaged_vocab = right;
    std::string damaged_merges = merges;
    std::string& damaged = round % 2 == 0 ? damaged_vocab : damaged_merges;
    for (int i = 0; i < 3; ++i) {
      const size_t pos = random() % damaged.size();
      random() % 2 == 0 ? damaged.replace(pos, 1, 1, static_cast<char>(random())) : damaged.erase(pos, random() % 4);
    }
    Write("vocab.json", damaged_vocab);
    Write("merges.txt", damaged_merges);
    const auto tokenizer = Tokenizer::Load(directory_);
    if (tokenizer.ok()) {
      const std::vector<int32_t> ids = tokenizer->Encode("ab ab</s> é", {.add_special_tokens = false}).value();
      ASSERT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), "ab ab</s> é");
    } else {
      ASSERT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << tokenizer.status();
    }
  }
}

}  // namespace
}  // namespace optserve
