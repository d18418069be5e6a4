#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/request.h"

namespace optserve {

// A request whose answers have not all ended, and what its client has of them: enough to go on in another engine.
struct UnfinishedRequest {
  struct Answer {
    std::vector<int32_t> tokens;
    bool is_finished = false;
    bool is_cancelled = false;  // asked for; the last event is still to come
  };

  UnfinishedRequest(GenerateRequest request_in, std::shared_ptr<TokenSink> sink_in);

  // Notes what an event of answer `event.choice` brings to the client.
  void Note(const TokenEvent& event);

  const GenerateRequest request;  // as it was submitted
  const std::shared_ptr<TokenSink> sink;
  std::vector<Answer> answers;  // [request.num_choices]
  int32_t num_unfinished;
  int32_t prompt_scores_sent;  // of prompt tokens 1, 2, ...
};

// A request that makes the rest of one or more answers.
struct ResumedPart {
  int32_t first_answer = 0;  // its answer j is answer first_answer + j
  GenerateRequest request;   // without an id
};

// What is left to do, cancelled answers left out. Randomness is keyed by (seed, choice, position), so the parts go on
// with the tokens that the undisturbed request would have had. Answers that have nothing yet stay together and share
// the work of their prompt; the others become requests of their own that begin behind their tokens. Prompt scores that
// were sent are not asked for again.
std::vector<ResumedPart> WhatIsLeft(const UnfinishedRequest& unfinished);

}  // namespace optserve
