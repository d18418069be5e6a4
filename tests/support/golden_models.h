#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace optserve {

// tests/data/golden: tiny OPT checkpoints and what Hugging Face transformers says about them in f32.

struct GoldenTop {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
};

struct GoldenPrompt {
  std::string name;
  std::vector<int32_t> ids;
  std::vector<float> token_logprobs;  // of ids[1], ids[2], ... given what is before
  std::vector<GoldenTop> top5;        // the next token's distribution at every position
  std::vector<float> first_logits;    // at the last position
  int32_t argmax = 0;
  float logsumexp = 0.0f;
  std::vector<int32_t> greedy_ids;  // going on past end-of-sequence tokens
  std::vector<float> greedy_logprobs;
};

struct GoldenModel {
  std::string name;
  std::string directory;
  std::vector<int32_t> eos_token_ids;
  int32_t vocab_size = 0;
  std::vector<GoldenPrompt> prompts;
};

// Names of the models in cases.json whose weights are stored in one of `formats`: "safetensors", "bin", "pt".
std::vector<std::string> GoldenModelNames(const std::vector<std::string>& formats);
GoldenModel LoadGoldenModel(const std::string& name);

// The aim of tests/data/golden for f32 is 5e-5 on every log probability and logit.
inline constexpr float kGoldenTolerance = 5e-5f;

}  // namespace optserve
