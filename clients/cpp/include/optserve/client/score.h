#pragma once

#include <string>

#include "optserve/v1/completion.pb.h"

// How likely a model finds a text.

namespace optserve::client {

struct Score {
  int tokens = 0;             // that have a log probability: all but the first of the sequence
  double log_likelihood = 0;  // sum of their natural logarithms

  // exp(-log_likelihood / tokens); NaN without tokens.
  double Perplexity() const;
};

// A request that scores texts and generates nothing; add a prompt for each. Choice i of the answer is prompt i's.
v1::CompletionRequest ScoringRequest();

// Of a choice that was asked for by ScoringRequest.
Score ScoreOf(const v1::Choice& choice);

}  // namespace optserve::client
