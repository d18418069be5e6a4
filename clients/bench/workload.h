#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve::bench {

// One request of a workload. Prompts are token ids: what is counted is then exact, whatever the tokenizer.
struct LoadRequest {
  std::vector<int32_t> prompt;
  int32_t output_tokens = 0;  // exactly so many: stop tokens are ignored
  std::string kind;           // of a workload of several kinds: "stream", "prompt"; else empty
};

struct WorkloadOptions {
  // fixed          prompt_tokens in, output_tokens out
  // sharegpt       lengths drawn as conversations have them, see kShareGptLengths
  // shared-prefix  prefix_tokens that all prompts share, then prompt_tokens of each one's own
  // prefill-heavy  four times prompt_tokens in, an eighth of output_tokens out
  // interference   three of four are streams (a sixteenth of prompt_tokens in, output_tokens out), each fourth is a
  //                prompt (four times prompt_tokens in, one token out): what long prompts do to others' latency
  std::string name = "fixed";
  int32_t prompt_tokens = 128;
  int32_t output_tokens = 64;
  int32_t prefix_tokens = 256;
  double length_scale = 1.0;   // of sharegpt's lengths, for models with short contexts
  int32_t max_length = 2048;   // prompt and output together
  int32_t vocab_size = 50265;  // ids are drawn from [4, vocab_size)
  uint64_t seed = 1;
};

// Lengths whose logarithm is normal. The means, exp(mu + sigma^2 / 2), are those of ShareGPT in Kwon et al. 2023
// ("PagedAttention", section 6.1): 161 tokens in, 338 out. The spreads are ours.
struct LogNormal {
  double mu = 0.0;
  double sigma = 0.0;
};
inline constexpr LogNormal kShareGptPrompt = {.mu = 4.36, .sigma = 1.2};
inline constexpr LogNormal kShareGptOutput = {.mu = 5.42, .sigma = 0.9};

// The same options give the same requests, on every machine. InvalidArgument names what is wrong.
absl::StatusOr<std::vector<LoadRequest>> MakeWorkload(const WorkloadOptions& options, int64_t num_requests);

// When requests are due, in seconds from the beginning: as events of a Poisson process, or evenly.
std::vector<double> PoissonArrivals(double per_second, int64_t count, uint64_t seed);
std::vector<double> EvenArrivals(double per_second, int64_t count);

}  // namespace optserve::bench
