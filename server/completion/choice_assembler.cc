#include "server/completion/choice_assembler.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "engine/util/status.h"
#include "server/text/utf8.h"

namespace optserve {

ChoiceAssembler::ChoiceAssembler(const AnswerContext& context, const PreparedPrompt& prompt)
    : context_(context),
      request_(*context.request),
      prompt_(prompt),
      track_(prompt.track),
      matcher_(context.request->stop) {}

CompletionEvent ChoiceAssembler::Push(const TokenEvent& event, std::span<const TokenScore> prompt_scores) {
  CompletionEvent out;
  if (!has_begun_) {
    has_begun_ = true;
    BeginAnswer(prompt_scores, out);
  }
  if (event.token) AddToken(*event.token, event.finish == FinishReason::kStop, out);
  if (event.finish != FinishReason::kNone && !finished()) Finish(event.finish, out);
  return out;
}

void ChoiceAssembler::BeginAnswer(std::span<const TokenScore> prompt_scores, CompletionEvent& out) {
  const auto prompt_entry = [&](size_t i, int32_t num_top, int32_t text_offset) {
    if (i > 0) return MakeEntry(prompt_scores[i - 1], num_top, text_offset);
    return LogprobEntry{.token = {.id = prompt_.ids[0], .text = ShowToken(prompt_.ids[0])}, .text_offset = text_offset};
  };
  if (request_.echo) {
    Release(prompt_.text, out);
    for (size_t i = 0; request_.logprobs && i < prompt_.ids.size(); ++i) {
      out.logprobs.push_back(prompt_entry(i, *request_.logprobs, prompt_.offsets[i]));
    }
  }
  if (request_.prompt_logprobs) {
    out.prompt_logprobs.emplace_back();
    for (size_t i = 1; i < prompt_.ids.size(); ++i) {
      out.prompt_logprobs.emplace_back(prompt_entry(i, *request_.prompt_logprobs, 0));
    }
  }
  if (request_.return_token_ids) out.prompt_token_ids = prompt_.ids;
}

void ChoiceAssembler::AddToken(const TokenScore& score, bool is_stop_token, CompletionEvent& out) {
  ++num_tokens_;
  sum_logprobs_ += score.logprob;
  if (request_.return_token_ids) out.token_ids.push_back(score.id);
  TextTrack::Piece piece;
  if (is_stop_token && !request_.include_stop_str_in_output) {
    piece = {.text = track_.Flush(), .begin = track_.length()};
  } else {
    piece = track_.Append(score.id);
  }
  if (request_.logprobs) held_entries_.push_back(MakeEntry(score, *request_.logprobs, piece.begin));
  if (is_stop_token && std::ranges::find(context_.eos_token_ids, score.id) == context_.eos_token_ids.end()) {
    out.stop_reason = score.id;
  }
  AddText(piece.text, out);
}

void ChoiceAssembler::AddText(std::string_view piece, CompletionEvent& out) {
  if (num_tokens_ <= request_.min_tokens) {
    Release(piece, out);
    return;
  }
  StopMatcher::Output output = matcher_.Push(piece);
  if (output.match) {
    const std::string& stop = request_.stop[output.match->stop_index];
    if (request_.include_stop_str_in_output) output.text += stop;
    out.stop_reason = stop;
    Release(output.text, out);
    Finish(FinishReason::kStop, out);
  } else {
    Release(output.text, out);
  }
}

// The text goes no further, but for what was held back, unless a stop string has cut it.
void ChoiceAssembler::Finish(FinishReason finish, CompletionEvent& out) {
  const bool is_cut = std::holds_alternative<std::string>(out.stop_reason);
  if (!is_cut) {
    AddText(track_.Flush(), out);
    if (finished()) return;  // a stop string that ends with the replacement of an unfinished character
    Release(matcher_.Flush(), out);
  }
  finish_ = finish;
  out.finish = finish;
  for (LogprobEntry& entry : held_entries_) {
    entry.text_offset = std::min(entry.text_offset, released_);
    out.logprobs.push_back(std::move(entry));
  }
  held_entries_.clear();
}

// What is out is never taken back, so entries that begin in it are settled.
void ChoiceAssembler::Release(std::string_view text, CompletionEvent& out) {
  out.text += text;
  released_ += static_cast<int32_t>(CountCodePoints(text));
  while (!held_entries_.empty() && held_entries_.front().text_offset <= released_) {
    out.logprobs.push_back(std::move(held_entries_.front()));
    held_entries_.pop_front();
  }
}

LogprobEntry ChoiceAssembler::MakeEntry(const TokenScore& score, int32_t num_top, int32_t text_offset) const {
  LogprobEntry entry{.token = {.id = score.id, .text = ShowToken(score.id), .logprob = score.logprob},
                     .text_offset = text_offset};
  const size_t size = std::min(score.top.size(), static_cast<size_t>(num_top));
  entry.top.reserve(size + 1);
  bool has_chosen = false;
  for (const TokenLogprob& top : std::span(score.top).first(size)) {
    entry.top.push_back({.id = top.id, .text = ShowToken(top.id), .logprob = top.logprob});
    has_chosen = has_chosen || top.id == score.id;
  }
  if (!has_chosen) entry.top.push_back(entry.token);
  return entry;
}

std::string ChoiceAssembler::ShowToken(int32_t id) const {
  if (context_.tokenizer == nullptr || request_.return_tokens_as_token_ids) return fmt::format("token_id:{}", id);
  return context_.tokenizer->TokenText(id);
}

void Append(CompletionEvent piece, CompletionEvent& whole) {
  whole.text += piece.text;
  std::ranges::move(piece.logprobs, std::back_inserter(whole.logprobs));
  whole.token_ids.insert(whole.token_ids.end(), piece.token_ids.begin(), piece.token_ids.end());
  if (!piece.prompt_token_ids.empty()) whole.prompt_token_ids = std::move(piece.prompt_token_ids);
  if (!piece.prompt_logprobs.empty()) whole.prompt_logprobs = std::move(piece.prompt_logprobs);
  whole.finish = piece.finish;
  whole.stop_reason = std::move(piece.stop_reason);
}

}  // namespace optserve
