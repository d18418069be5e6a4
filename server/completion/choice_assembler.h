#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/api/completion.h"
#include "server/completion/prompts.h"
#include "server/completion/text_track.h"
#include "server/text/stop_matcher.h"
#include "server/text/tokenizer.h"

namespace optserve {

// What all choices of a request are made with. Borrowed: it outlives them.
struct AnswerContext {
  const CompletionRequest* request = nullptr;
  const Tokenizer* tokenizer = nullptr;  // nullptr: tokens show nothing
  std::vector<int32_t> eos_token_ids;
};

// One choice: tokens in, one CompletionEvent for each token out. Its pieces, put together, are the answer that is not
// streamed (Append below), in every text and list.
//
// Text is cut before the stop string that is complete first, or behind it. Text that may yet be cut is held back, and
// so are log probability entries whose text_offset may: an entry's offset is the smaller of where its token begins and
// where the text ends. Stop strings are looked for in the text of tokens behind the first min_tokens. A stop token's
// own text is part of the text only with include_stop_str_in_output.
//
// No threads, no clock: one per choice.
class ChoiceAssembler {
 public:
  // `prompt` and what `context` points to outlive it.
  ChoiceAssembler(const AnswerContext& context, const PreparedPrompt& prompt);

  // The engine's next event for this choice: a token, or the end without one (max_tokens: 0). `prompt_scores`: of the
  // prompt's tokens 1, 2, ..., if the request asked for any; they are needed with the first event only. Must not be
  // called once it has finished. Fills in all of the event but `index` and `usage`.
  CompletionEvent Push(const TokenEvent& event, std::span<const TokenScore> prompt_scores);

  // Whether the choice has ended: by the engine, or by a stop string, of which the engine knows nothing.
  bool finished() const { return finish_ != FinishReason::kNone; }
  FinishReason finish() const { return finish_; }

  int32_t num_tokens() const { return num_tokens_; }

  // By which best_of ranks: the mean log probability of its tokens; 0 without any.
  double mean_logprob() const { return num_tokens_ == 0 ? 0.0 : sum_logprobs_ / num_tokens_; }

 private:
  void BeginAnswer(std::span<const TokenScore> prompt_scores, CompletionEvent& out);
  void AddToken(const TokenScore& score, bool is_stop_token, CompletionEvent& out);
  void AddText(std::string_view piece, CompletionEvent& out);
  void Finish(FinishReason finish, CompletionEvent& out);
  void Release(std::string_view text, CompletionEvent& out);
  LogprobEntry MakeEntry(const TokenScore& score, int32_t num_top, int32_t text_offset) const;
  std::string ShowToken(int32_t id) const;

  const AnswerContext& context_;
  const CompletionRequest& request_;
  const PreparedPrompt& prompt_;
  TextTrack track_;
  StopMatcher matcher_;
  std::deque<LogprobEntry> held_entries_;  // begin behind the text that is out
  int32_t released_ = 0;                   // code points of the text that is out
  int32_t num_tokens_ = 0;
  double sum_logprobs_ = 0.0;
  bool has_begun_ = false;
  FinishReason finish_ = FinishReason::kNone;
};

// Makes `whole` the answer up to and with `piece`.
void Append(CompletionEvent piece, CompletionEvent& whole);

}  // namespace optserve
