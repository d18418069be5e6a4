#include "server/completion/choice_assembler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "server/text/utf8.h"
#include "tests/server/completion/demo_tokenizer.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int32_t kEos = 2;

// A request's prompt, prepared as the service does it.
PreparedPrompt Prepare(const CompletionRequest& request, const Tokenizer* tokenizer = &DemoTokenizer()) {
  const ModelInfo model{.vocab_size = 4096, .max_model_len = 1024, .eos_token_ids = {kEos}};
  auto prompts = PreparePrompts(request, tokenizer, model);
  EXPECT_TRUE(prompts.ok()) << prompts.status();
  return std::move(prompts->front());
}

struct Answer {
  std::vector<CompletionEvent> pieces;  // one per token
  CompletionEvent whole;
  PreparedPrompt prompt;
};

// What becomes of an engine's `tokens`, the last of which brings `finish`. Stops where the assembler does.
Answer Assemble(CompletionRequest request, const std::vector<int32_t>& tokens, FinishReason finish,
                const Tokenizer* tokenizer = &DemoTokenizer()) {
  if (request.prompts.empty()) request.prompts = {Prompt(std::vector<int32_t>{kEos, 100, 101})};
  request.max_tokens = static_cast<int32_t>(tokens.size());
  const AnswerContext context{.request = &request, .tokenizer = tokenizer, .eos_token_ids = {kEos}};
  Answer answer{.prompt = Prepare(request, tokenizer)};
  std::vector<TokenScore> prompt_scores;
  for (size_t i = 1; i < answer.prompt.ids.size(); ++i) {
    prompt_scores.push_back(FakeEngineClient::Score(answer.prompt.ids[i], static_cast<int32_t>(i), 20));
  }
  ChoiceAssembler assembler(context, answer.prompt);
  const auto push = [&](const TokenEvent& event) {
    answer.pieces.push_back(assembler.Push(event, prompt_scores));
    Append(answer.pieces.back(), answer.whole);
  };
  if (tokens.empty()) push({.finish = finish});
  for (size_t i = 0; i < tokens.size() && !assembler.finished(); ++i) {
    const bool is_last = i + 1 == tokens.size();
    push({.token = FakeEngineClient::Score(tokens[i], static_cast<int32_t>(i), 20),
          .finish = is_last ? finish : FinishReason::kNone});
  }
  EXPECT_EQ(assembler.finished(), finish != FinishReason::kNone || answer.whole.finish != FinishReason::kNone);
  EXPECT_EQ(assembler.num_tokens(), static_cast<int32_t>(tokens.empty() ? 0 : answer.pieces.size()));
  return answer;
}

std::vector<std::string> Texts(const Answer& answer) {
  std::vector<std::string> texts;
  for (const CompletionEvent& piece : answer.pieces) texts.push_back(piece.text);
  return texts;
}

std::vector<int32_t> Offsets(const CompletionEvent& event) {
  std::vector<int32_t> offsets;
  for (const LogprobEntry& entry : event.logprobs) offsets.push_back(entry.text_offset);
  return offsets;
}

std::vector<std::string> Tokens(const CompletionEvent& event) {
  std::vector<std::string> tokens;
  for (const LogprobEntry& entry : event.logprobs) tokens.push_back(entry.token.text);
  return tokens;
}

std::vector<size_t> NumEntries(const Answer& answer) {
  std::vector<size_t> sizes;
  for (const CompletionEvent& piece : answer.pieces) sizes.push_back(piece.logprobs.size());
  return sizes;
}

TEST(ChoiceAssemblerTest, OneEventForEachTokenAlsoInsideACharacter) {
  const Answer answer = Assemble({.logprobs = 0}, IdsOf({"h", "\xe2", "\x82", "\xac", "i"}), FinishReason::kLength);
  EXPECT_THAT(Texts(answer), ElementsAre("h", "", "", "\u20ac", "i"));
  EXPECT_THAT(Tokens(answer.whole), ElementsAre("h", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "i"));
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1, 1, 1, 2));
  EXPECT_THAT(NumEntries(answer), ElementsAre(1, 1, 1, 1, 1));
  EXPECT_EQ(answer.whole.finish, FinishReason::kLength);
  EXPECT_EQ(answer.whole.stop_reason.index(), 0u);
}

TEST(ChoiceAssemblerTest, ACharacterThatIsNeverCompleteIsReplaced) {
  const Answer cut = Assemble({.logprobs = 0}, IdsOf({"a", "\xe2", "\x82"}), FinishReason::kLength);
  EXPECT_THAT(Texts(cut), ElementsAre("a", "", "\uFFFD"));
  const Answer broken = Assemble({.logprobs = 0}, IdsOf({"\xe2", "a", "b"}), FinishReason::kLength);
  EXPECT_THAT(Texts(broken), ElementsAre("",
                                         "\uFFFD"
                                         "a",
                                         "b"));
  EXPECT_THAT(Offsets(broken.whole), ElementsAre(0, 1, 2));
  const Answer at_eos = Assemble({.logprobs = 0}, {IdOf("\xe2"), kEos}, FinishReason::kStop);
  EXPECT_THAT(Texts(at_eos), ElementsAre("", "\uFFFD"));
  EXPECT_THAT(Offsets(at_eos.whole), ElementsAre(0, 1));
}

TEST(ChoiceAssemblerTest, AStopStringAcrossTokensIsCutOffAndNeverShown) {
  const std::vector<int32_t> tokens = IdsOf({"a", "b", "c", "d", "e"});
  const Answer answer = Assemble({.stop = {"bcd"}, .logprobs = 0}, tokens, FinishReason::kLength);
  EXPECT_THAT(Texts(answer), ElementsAre("a", "", "", ""));  // the fifth token is not used
  EXPECT_EQ(answer.whole.finish, FinishReason::kStop);
  EXPECT_EQ(std::get<std::string>(answer.whole.stop_reason), "bcd");
  // The tokens of the stop string keep their entries and have no width. Where "c" begins is known only at the end.
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1, 1, 1));
  EXPECT_THAT(NumEntries(answer), ElementsAre(1, 1, 0, 2));
}

TEST(ChoiceAssemblerTest, AStopStringCanBePartOfTheText) {
  const std::vector<int32_t> tokens = IdsOf({"a", "b", "c", "d"});
  const Answer answer =
      Assemble({.stop = {"bc"}, .include_stop_str_in_output = true, .logprobs = 0}, tokens, FinishReason::kLength);
  EXPECT_THAT(Texts(answer), ElementsAre("a", "", "bc"));
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1, 2));
  EXPECT_EQ(std::get<std::string>(answer.whole.stop_reason), "bc");
}

TEST(ChoiceAssemblerTest, AStopStringInTheMiddleOfATokenCutsInside) {
  const Answer answer = Assemble({.stop = {"h"}, .logprobs = 0}, IdsOf({"a", " the", "b"}), FinishReason::kLength);
  EXPECT_THAT(Texts(answer), ElementsAre("a", " t"));
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1));
}

TEST(ChoiceAssemblerTest, TextHeldBackForNothingComesLater) {
  const Answer more =
      Assemble({.stop = {"bcd"}, .logprobs = 0}, IdsOf({"a", "b", "c", "x", "y"}), FinishReason::kLength);
  EXPECT_THAT(Texts(more), ElementsAre("a", "", "", "bcx", "y"));
  EXPECT_THAT(Offsets(more.whole), ElementsAre(0, 1, 2, 3, 4));
  const Answer end = Assemble({.stop = {"bcd"}, .logprobs = 0}, IdsOf({"a", "b", "c"}), FinishReason::kLength);
  EXPECT_THAT(Texts(end), ElementsAre("a", "", "bc"));
  EXPECT_EQ(end.whole.finish, FinishReason::kLength);
  EXPECT_THAT(Offsets(end.whole), ElementsAre(0, 1, 2));
}

TEST(ChoiceAssemblerTest, AStopStringOfPartsOfCharacters) {
  const std::vector<int32_t> tokens = ByteIds("x\u20ac\u00e9y");
  const Answer answer = Assemble({.stop = {"\u20ac\u00e9"}, .logprobs = 0}, tokens, FinishReason::kLength);
  EXPECT_EQ(answer.whole.text, "x");
  EXPECT_EQ(answer.pieces.size(), 6u);  // x, three bytes, two bytes
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1, 1, 1, 1, 1));
}

TEST(ChoiceAssemblerTest, ThePromptIsNotSearchedForStopStrings) {
  const Answer answer = Assemble({.prompts = {Prompt(std::string("ab"))}, .stop = {"ab", "bx"}, .echo = true},
                                 IdsOf({"x", "y"}), FinishReason::kLength);
  EXPECT_EQ(answer.whole.text, "abxy");
}

TEST(ChoiceAssemblerTest, MinTokensHoldForStopStrings) {
  const std::vector<int32_t> tokens = IdsOf({"s", "s", "s", "s"});
  EXPECT_EQ(Assemble({.stop = {"s"}, .min_tokens = 2}, tokens, FinishReason::kLength).whole.text, "ss");
  // A stop string does not begin in text that was not searched.
  EXPECT_EQ(Assemble({.stop = {"ss"}, .min_tokens = 3}, tokens, FinishReason::kLength).whole.text, "ssss");
}

TEST(ChoiceAssemblerTest, EosShowsNothingAndKeepsItsEntry) {
  for (const bool skip_special : {true, false}) {
    const Answer answer =
        Assemble({.logprobs = 0, .skip_special_tokens = skip_special}, {IdOf("a"), kEos}, FinishReason::kStop);
    EXPECT_THAT(Texts(answer), ElementsAre("a", ""));
    EXPECT_THAT(Tokens(answer.whole), ElementsAre("a", "</s>"));
    EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1));
    EXPECT_EQ(answer.whole.finish, FinishReason::kStop);
    EXPECT_EQ(answer.whole.stop_reason.index(), 0u);
  }
}

TEST(ChoiceAssemblerTest, EosThatIsIgnoredIsASpecialTokenLikeOthers) {
  const std::vector<int32_t> tokens = {IdOf("a"), kEos, IdOf("b")};
  EXPECT_EQ(Assemble({.ignore_eos = true}, tokens, FinishReason::kLength).whole.text, "ab");
  const Answer shown =
      Assemble({.ignore_eos = true, .logprobs = 0, .skip_special_tokens = false}, tokens, FinishReason::kLength);
  EXPECT_EQ(shown.whole.text, "a</s>b");
  EXPECT_THAT(Offsets(shown.whole), ElementsAre(0, 1, 5));
}

TEST(ChoiceAssemblerTest, AStopTokenIsTheReasonAndIsShownOnRequest) {
  const std::vector<int32_t> tokens = IdsOf({"a", "!"});
  const Answer cut = Assemble({.stop_token_ids = {IdOf("!")}, .logprobs = 0}, tokens, FinishReason::kStop);
  EXPECT_EQ(cut.whole.text, "a");
  EXPECT_EQ(std::get<int32_t>(cut.whole.stop_reason), IdOf("!"));
  EXPECT_THAT(Tokens(cut.whole), ElementsAre("a", "!"));
  EXPECT_THAT(Offsets(cut.whole), ElementsAre(0, 1));
  const Answer shown =
      Assemble({.include_stop_str_in_output = true, .stop_token_ids = {IdOf("!")}}, tokens, FinishReason::kStop);
  EXPECT_EQ(shown.whole.text, "a!");
}

TEST(ChoiceAssemblerTest, TheChosenTokenIsAmongTheTop) {
  const int32_t chosen = IdOf("q");
  CompletionRequest request{.logprobs = 3};
  const Answer answer = Assemble(request, {chosen}, FinishReason::kLength);
  const LogprobEntry& entry = answer.whole.logprobs.at(0);
  ASSERT_EQ(entry.top.size(), 4u);
  EXPECT_GT(*entry.top[0].logprob, *entry.top[1].logprob);
  EXPECT_EQ(entry.top[3].id, chosen);
  EXPECT_EQ(entry.top[3].logprob, entry.token.logprob);
  // One that is among them is there once.
  const int32_t best = FakeEngineClient::Score(chosen, 0, 1).top[0].id;
  EXPECT_EQ(Assemble(request, {best}, FinishReason::kLength).whole.logprobs.at(0).top.size(), 3u);
  request.logprobs = 0;
  EXPECT_EQ(Assemble(request, {best}, FinishReason::kLength).whole.logprobs.at(0).top.size(), 1u);
}

TEST(ChoiceAssemblerTest, NothingIsListedThatWasNotAskedFor) {
  const Answer answer = Assemble({.echo = true}, IdsOf({"a"}), FinishReason::kLength);
  EXPECT_THAT(answer.whole.logprobs, IsEmpty());
  EXPECT_THAT(answer.whole.prompt_logprobs, IsEmpty());
  EXPECT_THAT(answer.whole.token_ids, IsEmpty());
  EXPECT_THAT(answer.whole.prompt_token_ids, IsEmpty());
}

TEST(ChoiceAssemblerTest, EchoShowsATextPromptAsItWasWritten) {
  const CompletionRequest request{.prompts = {Prompt(std::string("caf\u00e9</s>!"))}, .logprobs = 1, .echo = true};
  const Answer answer = Assemble(request, IdsOf({"x"}), FinishReason::kLength);
  EXPECT_EQ(answer.whole.text, "caf\u00e9</s>!x");
  EXPECT_THAT(Texts(answer), ElementsAre("caf\u00e9</s>!x"));  // with the first token, not before it
  const size_t num_prompt = answer.prompt.ids.size();
  ASSERT_EQ(answer.whole.logprobs.size(), num_prompt + 1);
  // BOS has no width; all others begin where their text is.
  EXPECT_EQ(answer.whole.logprobs[0].token.text, "</s>");
  EXPECT_EQ(answer.whole.logprobs[0].token.logprob, std::nullopt);
  EXPECT_THAT(answer.whole.logprobs[0].top, IsEmpty());
  EXPECT_EQ(answer.whole.logprobs[1].text_offset, 0);
  EXPECT_EQ(answer.whole.logprobs[num_prompt - 2].text_offset, 4);  // "</s>"
  EXPECT_EQ(answer.whole.logprobs[num_prompt - 1].text_offset, 8);
  EXPECT_EQ(answer.whole.logprobs[num_prompt].text_offset, 9);
  EXPECT_EQ(answer.whole.logprobs[2].token.logprob, FakeEngineClient::Score(answer.prompt.ids[2], 2, 0).logprob);
}

TEST(ChoiceAssemblerTest, EchoOfIdsGoesOnInsideACharacter) {
  std::vector<int32_t> prompt = IdsOf({"a", "\xe2", "\x82"});
  prompt.insert(prompt.begin(), kEos);
  const CompletionRequest request{.prompts = {Prompt(prompt)}, .logprobs = 0, .echo = true};
  const Answer answer = Assemble(request, IdsOf({"\xac", "b"}), FinishReason::kLength);
  EXPECT_THAT(Texts(answer), ElementsAre("a\u20ac", "b"));
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 0, 1, 1, 1, 2));
}

TEST(ChoiceAssemblerTest, WithoutEchoAnAnswerBeginsAtZero) {
  const Answer answer =
      Assemble({.prompts = {Prompt(std::string("abc"))}, .logprobs = 0}, IdsOf({"x", "y"}), FinishReason::kLength);
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 1));
}

TEST(ChoiceAssemblerTest, ScoringOnly) {
  const CompletionRequest request{.prompts = {Prompt(std::string("ab"))}, .logprobs = 0, .echo = true};
  const Answer answer = Assemble(request, {}, FinishReason::kLength);
  EXPECT_EQ(answer.whole.text, "ab");
  EXPECT_EQ(answer.whole.logprobs.size(), answer.prompt.ids.size());
  EXPECT_EQ(answer.whole.finish, FinishReason::kLength);
}

TEST(ChoiceAssemblerTest, PromptLogprobsAreAListOfTheirOwn) {
  const CompletionRequest request{
      .prompts = {Prompt(std::string("ab"))}, .logprobs = 5, .echo = true, .prompt_logprobs = 2};
  const Answer answer = Assemble(request, IdsOf({"x", "y"}), FinishReason::kLength);
  EXPECT_THAT(answer.pieces[1].prompt_logprobs, IsEmpty());
  ASSERT_EQ(answer.whole.prompt_logprobs.size(), answer.prompt.ids.size());
  EXPECT_EQ(answer.whole.prompt_logprobs[0], std::nullopt);
  EXPECT_EQ(answer.whole.prompt_logprobs[1]->top.size(), 3u);
  EXPECT_EQ(answer.whole.logprobs[1].top.size(), 6u);
}

TEST(ChoiceAssemblerTest, IdsOnRequest) {
  const CompletionRequest request{.logprobs = 1, .return_token_ids = true, .return_tokens_as_token_ids = true};
  const std::vector<int32_t> tokens = {IdOf("a"), kEos};
  const Answer answer = Assemble(request, tokens, FinishReason::kStop);
  EXPECT_EQ(answer.whole.token_ids, tokens);
  EXPECT_EQ(answer.whole.prompt_token_ids, answer.prompt.ids);
  EXPECT_THAT(answer.pieces[1].prompt_token_ids, IsEmpty());
  EXPECT_THAT(answer.pieces[1].token_ids, ElementsAre(kEos));
  EXPECT_THAT(Tokens(answer.whole), ElementsAre("token_id:" + std::to_string(tokens[0]), "token_id:2"));
  for (const ShownToken& top : answer.whole.logprobs[0].top) {
    EXPECT_EQ(top.text, "token_id:" + std::to_string(top.id));
  }
}

TEST(ChoiceAssemblerTest, WithoutATokenizerThereAreIdsOnly) {
  const CompletionRequest request{.logprobs = 1, .echo = true, .return_token_ids = true};
  const Answer answer = Assemble(request, {10, 11}, FinishReason::kLength, nullptr);
  EXPECT_EQ(answer.whole.text, "");
  EXPECT_THAT(answer.whole.token_ids, ElementsAre(10, 11));
  EXPECT_THAT(Tokens(answer.whole),
              ElementsAre("token_id:2", "token_id:100", "token_id:101", "token_id:10", "token_id:11"));
  EXPECT_THAT(Offsets(answer.whole), ElementsAre(0, 0, 0, 0, 0));
}

TEST(ChoiceAssemblerTest, MeanLogprobIsOfTheTokensUsed) {
  const CompletionRequest request{.prompts = {Prompt(std::string("a"))}};
  const AnswerContext context{.request = &request, .tokenizer = &DemoTokenizer(), .eos_token_ids = {kEos}};
  const PreparedPrompt prompt = Prepare(request);
  ChoiceAssembler assembler(context, prompt);
  EXPECT_EQ(assembler.mean_logprob(), 0.0);
  assembler.Push({.token = TokenScore{.id = 10, .logprob = -1.0f}}, {});
  assembler.Push({.token = TokenScore{.id = 11, .logprob = -2.0f}}, {});
  EXPECT_DOUBLE_EQ(assembler.mean_logprob(), -1.5);
}

// Against a slow and obvious rule: decode everything, find the stop string that is complete first, cut, clamp.
struct Expected {
  std::string text;
  std::vector<int32_t> offsets;
  size_t num_tokens = 0;
  bool is_stopped = false;
};

Expected Reference(const CompletionRequest& request, const PreparedPrompt& prompt, const std::vector<int32_t>& tokens) {
  const auto decode = [&](size_t num_tokens, bool is_end) {
    TextTrack track = prompt.track;
    std::string text;
    for (size_t i = 0; i < num_tokens; ++i) text += track.Append(tokens[i]).text;
    if (is_end) text += track.Flush();
    return text;
  };
  Expected expected;
  expected.text = decode(tokens.size(), true);
  expected.num_tokens = tokens.size();
  for (size_t num = 1; num <= tokens.size() && !expected.is_stopped; ++num) {
    const std::string text = decode(num, num == tokens.size());
    size_t best_end = std::string::npos;
    std::string best;
    for (const std::string& stop : request.stop) {
      const size_t begin = text.find(stop);
      if (begin == std::string::npos) continue;
      const size_t end = begin + stop.size();
      if (end < best_end || (end == best_end && stop.size() > best.size())) {
        best_end = end;
        best = stop;
      }
    }
    if (best.empty()) continue;
    expected.is_stopped = true;
    expected.num_tokens = num;
    expected.text = text.substr(0, request.include_stop_str_in_output ? best_end : best_end - best.size());
  }
  expected.text = prompt.text + expected.text;
  TextTrack track = prompt.track;
  const auto length = static_cast<int32_t>(CountCodePoints(expected.text));
  for (size_t i = 0; i < expected.num_tokens; ++i) {
    expected.offsets.push_back(std::min(track.Append(tokens[i]).begin, length));
  }
  return expected;
}

TEST(ChoiceAssemblerTest, AnyTokensAnyStopStrings) {
  std::mt19937 random(6);
  const std::vector<std::string_view> alphabet = {"a",    "b",    "ab",   " the", "\xe2",
                                                  "\x82", "\xac", "\xc3", "\xa9", "</s>"};
  const std::vector<std::string> stops = {"a",        "b",      "ab",     "ba",    "aab",  "\u20ac",
                                          "b\u20aca", "\u00e9", "\uFFFD", "the a", "aaaa", "\uFFFDb"};
  int num_stopped = 0;
  for (int round = 0; round < 20'000; ++round) {
    CompletionRequest request{.include_stop_str_in_output = random() % 2 == 0,
                              .logprobs = 1,
                              .echo = random() % 2 == 0,
                              .skip_special_tokens = random() % 2 == 0,
                              .return_token_ids = true};
    request.prompts = {random() % 2 == 0 ? Prompt(std::string("pr\u00f6mpt")) : Prompt(ByteIds("x\xe2\x82"))};
    for (size_t i = random() % 4; i > 0; --i) request.stop.push_back(stops[random() % stops.size()]);
    std::vector<int32_t> tokens;
    for (size_t i = 1 + random() % 12; i > 0; --i) tokens.push_back(IdOf(alphabet[random() % alphabet.size()]));
    const Answer answer = Assemble(request, tokens, FinishReason::kLength);
    const Expected expected = Reference(request, answer.prompt, tokens);
    ASSERT_EQ(answer.whole.text, expected.text);
    ASSERT_EQ(answer.pieces.size(), expected.num_tokens);
    std::vector<int32_t> offsets = Offsets(answer.whole);
    if (request.echo)
      offsets.erase(offsets.begin(), offsets.begin() + static_cast<ptrdiff_t>(answer.prompt.ids.size()));
    ASSERT_EQ(offsets, expected.offsets);
    ASSERT_EQ(answer.whole.token_ids.size(), expected.num_tokens);
    ASSERT_EQ(answer.whole.finish, expected.is_stopped ? FinishReason::kStop : FinishReason::kLength);
    for (const CompletionEvent& piece : answer.pieces) ASSERT_EQ(FindInvalidUtf8(piece.text), std::nullopt);
    num_stopped += expected.is_stopped ? 1 : 0;
  }
  EXPECT_GT(num_stopped, 2'000);
}

}  // namespace
}  // namespace optserve
