#include "server/replicas/resumption.h"

#include <algorithm>
#include <utility>

namespace optserve {

UnfinishedRequest::UnfinishedRequest(GenerateRequest request_in, std::shared_ptr<TokenSink> sink_in)
    : request(std::move(request_in)),
      sink(std::move(sink_in)),
      answers(static_cast<size_t>(request.num_choices)),
      num_unfinished(request.num_choices),
      prompt_scores_sent(request.prompt_scores_sent) {
  answers[0].tokens = request.generated;
}

void UnfinishedRequest::Note(const TokenEvent& event) {
  Answer& answer = answers[static_cast<size_t>(event.choice)];
  if (event.token.has_value()) answer.tokens.push_back(event.token->id);
  if (!event.prompt_scores.empty()) {
    prompt_scores_sent = event.prompt_scores_begin - 1 + static_cast<int32_t>(event.prompt_scores.size());
  }
  if (event.finish == FinishReason::kNone || answer.is_finished) return;
  answer.is_finished = true;
  --num_unfinished;
}

std::vector<ResumedPart> WhatIsLeft(const UnfinishedRequest& unfinished) {
  const auto is_untouched = [](const UnfinishedRequest::Answer& answer) {
    return answer.tokens.empty() && !answer.is_finished && !answer.is_cancelled;
  };
  const auto part = [&](int32_t first_answer) {
    ResumedPart made = {.first_answer = first_answer, .request = unfinished.request};
    made.request.first_choice += first_answer;
    made.request.prompt_scores_sent = unfinished.prompt_scores_sent;
    if (first_answer > 0) {  // answer 0 brings the scores
      made.request.num_prompt_logprobs = -1;
      made.request.prompt_scores_sent = 0;
    }
    return made;
  };
  if (std::ranges::all_of(unfinished.answers, is_untouched)) return {part(0)};
  std::vector<ResumedPart> parts;
  for (int32_t i = 0; i < unfinished.request.num_choices; ++i) {
    const UnfinishedRequest::Answer& answer = unfinished.answers[static_cast<size_t>(i)];
    if (answer.is_finished || answer.is_cancelled) continue;
    ResumedPart& made = parts.emplace_back(part(i));
    made.request.num_choices = 1;
    made.request.generated = answer.tokens;
  }
  return parts;
}

}  // namespace optserve
