#include "server/completion/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/util/error_details.h"
#include "tests/server/completion/demo_tokenizer.h"

// What is refused, with which error, is in tests/api/cases.

namespace optserve {
namespace {

using testing::ElementsAre;

const ModelInfo kModel = {.vocab_size = 4096, .max_model_len = 64, .eos_token_ids = {2}};

PreparedPrompt PrepareOne(const CompletionRequest& request) {
  auto prompts = PreparePrompts(request, &DemoTokenizer(), kModel);
  EXPECT_TRUE(prompts.ok()) << prompts.status();
  return std::move(prompts->front());
}

TEST(PromptsTest, TextGetsBosAndIdsDoNot) {
  const Prompt text = std::string("a");
  EXPECT_THAT(PrepareOne({.prompts = {text}}).ids, ElementsAre(2, IdOf("a")));
  EXPECT_THAT(PrepareOne({.prompts = {text}, .add_special_tokens = false}).ids, ElementsAre(IdOf("a")));
  EXPECT_THAT(PrepareOne({.prompts = {Prompt(std::vector<int32_t>{7, 2, 8})}}).ids, ElementsAre(7, 2, 8));
}

TEST(PromptsTest, SpecialTokensInTextAreParsedUnlessTold) {
  const Prompt text = std::string("</s>");
  EXPECT_THAT(PrepareOne({.prompts = {text}}).ids, ElementsAre(2, 2));
  EXPECT_GT(PrepareOne({.prompts = {text}, .parse_special_tokens = false}).ids.size(), 2u);
}

TEST(PromptsTest, TruncationKeepsTheEnd) {
  const std::vector<int32_t> ids = {5, 6, 7, 8};
  EXPECT_THAT(PrepareOne({.prompts = {Prompt(ids)}, .truncate_prompt_tokens = 2}).ids, ElementsAre(7, 8));
  EXPECT_EQ(PrepareOne({.prompts = {Prompt(ids)}, .truncate_prompt_tokens = 4}).ids, ids);
  EXPECT_EQ(PrepareOne({.prompts = {Prompt(ids)}, .truncate_prompt_tokens = 100}).ids, ids);
  // Under echo the text is that of what is left.
  const PreparedPrompt prompt = PrepareOne({.prompts = {Prompt(std::string("ab!"))},
                                            .echo = true,
                                            .truncate_prompt_tokens = 1,
                                            .parse_special_tokens = false});
  EXPECT_THAT(prompt.ids, ElementsAre(IdOf("!")));
  EXPECT_EQ(prompt.text, "!");
  EXPECT_THAT(prompt.offsets, ElementsAre(0));
}

TEST(PromptsTest, WithoutATokenizerThereIsNoText) {
  const auto code_of = [](const CompletionRequest& request) {
    const absl::Status status = PreparePrompts(request, nullptr, kModel).status();
    return ErrorCode(status).value_or("") + " " + Param(status).value_or("");
  };
  EXPECT_EQ(code_of({.prompts = {Prompt(std::string("a"))}}), "tokenizer_missing prompt");
  EXPECT_EQ(code_of({.prompts = {Prompt(std::string("a"))}, .prompt_is_list = true}), "tokenizer_missing prompt[0]");
  EXPECT_EQ(code_of({.prompts = {Prompt(std::vector<int32_t>{5})}, .stop = {"a"}}), "tokenizer_missing stop");
  EXPECT_TRUE(PreparePrompts({.prompts = {Prompt(std::vector<int32_t>{5})}}, nullptr, kModel).ok());
}

TEST(PromptsTest, TooLongIsSaidWithAllTheNumbers) {
  const auto error_of = [](size_t prompt_tokens, int32_t max_tokens) {
    return PreparePrompts({.prompts = {Prompt(std::vector<int32_t>(prompt_tokens, 5))}, .max_tokens = max_tokens},
                          &DemoTokenizer(), kModel)
        .status();
  };
  EXPECT_TRUE(error_of(60, 4).ok());
  EXPECT_TRUE(error_of(64, 0).ok());
  const absl::Status tokens = error_of(60, 5);
  EXPECT_EQ(Param(tokens), "max_tokens");
  EXPECT_EQ(ErrorCode(tokens), "context_length_exceeded");
  EXPECT_EQ(std::string(tokens.message()),
            "the model's context is 64 tokens, but the request needs 65: 60 of prompt and max_tokens 5; max_tokens can "
            "be up to 4");
  EXPECT_EQ(Param(error_of(64, 1)), "prompt");
  EXPECT_EQ(Param(error_of(65, 0)), "prompt");
  EXPECT_FALSE(error_of(60, std::numeric_limits<int32_t>::max()).ok());
}

}  // namespace
}  // namespace optserve
