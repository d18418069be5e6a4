#include "optserve/client/score.h"

#include <cmath>
#include <limits>

namespace optserve::client {

double Score::Perplexity() const {
  return tokens == 0 ? std::numeric_limits<double>::quiet_NaN() : std::exp(-log_likelihood / tokens);
}

v1::CompletionRequest ScoringRequest() {
  v1::CompletionRequest request;
  request.set_max_tokens(0);
  request.set_echo(true);
  request.set_logprobs(0);
  return request;
}

Score ScoreOf(const v1::Choice& choice) {
  Score score;
  for (const v1::TokenScore& entry : choice.logprobs()) {
    if (!entry.token().has_logprob()) continue;
    ++score.tokens;
    score.log_likelihood += entry.token().logprob();
  }
  return score;
}

}  // namespace optserve::client
