#include "engine/model/opt_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/test_data.h"

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string ErrorOf(std::string_view config, std::string_view generation = "") {
  return std::string(ParseOptConfig(config, generation).status().message());
}

TEST(OptConfigTest, AbsentKeysTakeTheLibrarysDefaults) {
  const OptConfig config = *ParseOptConfig("{}");
  EXPECT_EQ(config.num_layers, 12);
  EXPECT_EQ(config.hidden_size, 768);
  EXPECT_EQ(config.embed_size, 768);
  EXPECT_EQ(config.ffn_size, 3072);
  EXPECT_EQ(config.vocab_size, 50272);
  EXPECT_EQ(config.max_positions, 2048);
  EXPECT_TRUE(config.layer_norm_first && config.final_layer_norm && config.has_bias && config.tied_embeddings);
  EXPECT_EQ(config.activation, Activation::kRelu);
  EXPECT_EQ(config.bos_token_id, 2);
  EXPECT_EQ(config.pad_token_id, 1);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
}

TEST(OptConfigTest, ReadsThe350MsPeculiarities) {
  const OptConfig config = *ParseOptConfig(
      R"({"hidden_size": 1024, "num_attention_heads": 16, "word_embed_proj_dim": 512, "do_layer_norm_before": false})");
  EXPECT_TRUE(config.has_projections());
  EXPECT_FALSE(config.layer_norm_first);
  EXPECT_FALSE(config.final_layer_norm);
}

TEST(OptConfigTest, ReadsOldSpellings) {
  const OptConfig config = *ParseOptConfig(R"({"d_model": 64, "num_attention_heads": 4, "bias": false})");
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.embed_size, 64);
  EXPECT_FALSE(config.has_bias);
  EXPECT_TRUE(ParseOptConfig(R"({"bias": false, "enable_bias": true})")->has_bias);
}

TEST(OptConfigTest, NullMeansDefaultOnlyWhereTheLibraryWritesNull) {
  EXPECT_EQ(ParseOptConfig(R"({"word_embed_proj_dim": null})")->embed_size, 768);
  EXPECT_THAT(ErrorOf(R"({"num_attention_heads": null})"), HasSubstr("num_attention_heads"));
}

TEST(OptConfigTest, EndOfSequenceIdsComeFromGenerationConfigFirst) {
  EXPECT_THAT(ParseOptConfig(R"({"eos_token_id": [2, 76]})")->eos_token_ids, ElementsAre(2, 76));
  EXPECT_THAT(ParseOptConfig(R"({"eos_token_id": 2})", R"({"eos_token_id": [5, 6]})")->eos_token_ids,
              ElementsAre(5, 6));
  EXPECT_THAT(ParseOptConfig(R"({"eos_token_id": 7})", R"({"bos_token_id": 2})")->eos_token_ids, ElementsAre(7));
  EXPECT_THAT(ErrorOf("{}", R"({"eos_token_id": 60000})"), HasSubstr("generation_config.json: eos_token_id"));
}

// Or an id without a row of the embedding would be fed to the model.
TEST(OptConfigTest, RefusesAVocabularyWithoutTheDefaultIds) {
  EXPECT_THAT(ErrorOf(R"({"vocab_size": 2})"), HasSubstr("bos_token_id is not given, and its default 2"));
  EXPECT_THAT(ErrorOf(R"({"vocab_size": 1, "bos_token_id": 0})"), HasSubstr("pad_token_id"));
  EXPECT_THAT(ErrorOf(R"({"vocab_size": 2, "bos_token_id": 0})"), HasSubstr("eos_token_id"));
  EXPECT_TRUE(ParseOptConfig(R"({"vocab_size": 2, "bos_token_id": 0, "eos_token_id": 1})").ok());
}

TEST(OptConfigTest, AKeyTwiceIsRefused) {
  EXPECT_THAT(ErrorOf(R"({"vocab_size": 10, "vocab_size": 20})"), HasSubstr("config.json: the key 'vocab_size'"));
}

// 13B and 30B do not divide by 16, 66B does not either; the message says what does.
TEST(OptConfigTest, RefusesTensorParallelSizesThatDoNotDivide) {
  const auto message = [](int32_t heads, int32_t size) {
    OptConfig config;
    config.num_heads = heads;
    config.hidden_size = heads * 128;
    config.ffn_size = 4 * config.hidden_size;
    return std::string(CheckTensorParallelSize(config, size).message());
  };
  EXPECT_THAT(message(40, 16), HasSubstr("sizes that do: 1, 2, 4, 5, 8, 10, 20, 40"));
  EXPECT_THAT(message(56, 16), HasSubstr("sizes that do: 1, 2, 4, 7, 8, 14, 28, 56"));
  EXPECT_THAT(message(72, 16), HasSubstr("sizes that do: 1, 2, 3, 4, 6, 8, 9, 12, 18, 24, 36, 72"));
  EXPECT_EQ(message(96, 16), "");
  EXPECT_THAT(message(96, 0), HasSubstr("--tensor-parallel-size is 0"));
  EXPECT_THAT(message(96, -2), HasSubstr("--tensor-parallel-size is -2"));
}

TEST(OptConfigTest, LoadsEveryGoldenModel) {
  for (const char* name : {"preln_d64", "postln_proj", "galactica_old_keys", "odd_multi_eos"}) {
    const auto config = LoadOptConfig(TestDataPath(std::string("golden/models/") + name).string());
    EXPECT_TRUE(config.ok()) << config.status();
  }
}

}  // namespace
}  // namespace optserve
