#include "server/replicas/resumption.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/recorder.h"

namespace optserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

UnfinishedRequest Unfinished(int32_t num_choices, int32_t num_prompt_logprobs = -1) {
  return {{.id = 1,
           .prompt = {2, 3, 4, 5},
           .max_tokens = 10,
           .num_choices = num_choices,
           .first_choice = 100,
           .num_prompt_logprobs = num_prompt_logprobs},
          std::make_shared<Recorder>()};
}

void NoteToken(UnfinishedRequest& unfinished, int32_t choice, int32_t id, FinishReason finish = FinishReason::kNone) {
  unfinished.Note({.request = 1, .choice = choice, .token = TokenScore{.id = id}, .finish = finish});
}

TEST(ResumptionTest, WhatHasNothingYetIsAskedForAsItWas) {
  const std::vector<ResumedPart> parts = WhatIsLeft(Unfinished(3));
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].first_answer, 0);
  EXPECT_EQ(parts[0].request.num_choices, 3);
  EXPECT_EQ(parts[0].request.first_choice, 100);
  EXPECT_THAT(parts[0].request.generated, IsEmpty());
}

TEST(ResumptionTest, AnswersGoOnBehindTheirTokensEachByItself) {
  UnfinishedRequest unfinished = Unfinished(4);
  NoteToken(unfinished, 0, 11);
  NoteToken(unfinished, 2, 12);
  NoteToken(unfinished, 0, 13);
  NoteToken(unfinished, 3, 14, FinishReason::kStop);
  EXPECT_EQ(unfinished.num_unfinished, 3);
  const std::vector<ResumedPart> parts = WhatIsLeft(unfinished);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_THAT(parts[0].request.generated, ElementsAre(11, 13));
  EXPECT_THAT(parts[1].request.generated, IsEmpty());
  EXPECT_THAT(parts[2].request.generated, ElementsAre(12));
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(parts[i].first_answer, i);
    EXPECT_EQ(parts[i].request.first_choice, 100 + i);  // the randomness of the undisturbed answer
    EXPECT_EQ(parts[i].request.num_choices, 1);
    EXPECT_EQ(parts[i].request.max_tokens, 10);
  }
}

TEST(ResumptionTest, WhatWasCancelledIsNotAskedFor) {
  UnfinishedRequest unfinished = Unfinished(2);
  unfinished.answers[0].is_cancelled = true;
  const std::vector<ResumedPart> parts = WhatIsLeft(unfinished);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].first_answer, 1);
}

TEST(ResumptionTest, PromptScoresThatWereSentAreNotSentAgain) {
  UnfinishedRequest unfinished = Unfinished(2, /*num_prompt_logprobs=*/5);
  unfinished.Note({.request = 1, .prompt_scores = {{.id = 3}, {.id = 4}}, .prompt_scores_begin = 1});
  ASSERT_EQ(WhatIsLeft(unfinished).size(), 1u);
  EXPECT_EQ(WhatIsLeft(unfinished)[0].request.prompt_scores_sent, 2);
  unfinished.Note({.request = 1, .token = TokenScore{.id = 9}, .prompt_scores = {{.id = 5}}, .prompt_scores_begin = 3});
  const std::vector<ResumedPart> parts = WhatIsLeft(unfinished);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].request.prompt_scores_sent, 3);
  EXPECT_EQ(parts[0].request.num_prompt_logprobs, 5);
  EXPECT_EQ(parts[1].request.num_prompt_logprobs, -1);  // they are answer 0's
  EXPECT_EQ(parts[1].request.prompt_scores_sent, 0);
  const ModelInfo model = {.vocab_size = 100, .max_model_len = 64, .kv_tokens = 64};
  for (const ResumedPart& part : parts) EXPECT_TRUE(CheckRequest(part.request, model).ok());
}

TEST(ResumptionTest, ARequestThatWasResumedIsResumedAgain) {
  UnfinishedRequest unfinished({.id = 1, .prompt = {2}, .max_tokens = 10, .generated = {7}},
                               std::make_shared<Recorder>());
  NoteToken(unfinished, 0, 8);
  EXPECT_THAT(WhatIsLeft(unfinished)[0].request.generated, ElementsAre(7, 8));
}

}  // namespace
}  // namespace optserve
