#include "server/flag_suggestions.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace optserve {
namespace {

// `ours` with dashes in front is a flag, perhaps with its value; else what to say.
struct ForeignFlag {
  std::string_view name;
  std::string_view ours;
};

constexpr std::string_view kIsPositional = "the model is given without a flag, right after the command";
constexpr std::string_view kIsAlwaysOn = "it is always on: leave it out";

constexpr ForeignFlag kForeignFlags[] = {
    // vLLM
    {"--model", kIsPositional},
    {"--tp", "--tensor-parallel-size"},
    {"-tp", "--tensor-parallel-size"},
    {"--tensor-parallel", "--tensor-parallel-size"},
    {"--dp", "--replicas"},
    {"-dp", "--replicas"},
    {"--data-parallel-size", "--replicas"},
    {"--pipeline-parallel-size", "--tensor-parallel-size"},
    {"-pp", "--tensor-parallel-size"},
    {"--gpu-memory-utilization", "--kv-cache-memory"},
    {"--kv-cache-memory-bytes", "--kv-cache-memory"},
    {"--num-gpu-blocks-override", "--kv-cache-memory"},
    {"--max-seq-len", "--max-model-len"},
    {"--max-model-length", "--max-model-len"},
    {"--max-seq-length", "--max-model-len"},
    {"--max-num-sequences", "--max-num-seqs"},
    {"--api-key", "--api-key-file"},
    {"--quantization", "--dtype int8"},
    {"-q", "--dtype int8"},
    {"--ssl-certfile", "--tls-cert"},
    {"--ssl-keyfile", "--tls-key"},
    {"--no-enable-prefix-caching", "--no-prefix-cache"},
    {"--enable-prefix-caching", kIsAlwaysOn},
    {"--enable-chunked-prefill", kIsAlwaysOn},
    {"--trust-remote-code", "nothing in a model's files is ever executed: leave it out"},
    {"--hf-config-path", "--model-config"},
    {"--load-format", "the format is known by a file's content: leave it out"},
    {"--disable-log-requests", "prompts and answers are never logged: leave it out"},
    {"--disable-log-stats", "numbers are at /metrics only: leave it out"},
    {"--enforce-eager", "leave it out"},
    {"--seed", "each request has its own seed"},
    {"--chat-template", "OPT has no chat template"},
    // TGI
    {"--model-id", kIsPositional},
    {"--num-shard", "--tensor-parallel-size"},
    {"--otlp-endpoint", "--otlp-traces-endpoint"},
    {"--hostname", "--host"},
    {"--max-total-tokens", "--max-model-len"},
    {"--max-input-tokens", "--max-model-len"},
    {"--max-input-length", "--max-model-len"},
    {"--max-batch-prefill-tokens", "--max-num-batched-tokens"},
    {"--max-batch-total-tokens", "--kv-cache-memory"},
    {"--max-batch-size", "--max-num-seqs"},
    {"--max-concurrent-requests", "--max-queue"},
    {"--cuda-memory-fraction", "--kv-cache-memory"},
    {"--quantize", "--dtype int8"},
    {"--json-output", "--log-format json"},
    // llama.cpp
    {"-m", kIsPositional},
    {"-c", "--max-model-len"},
    {"--ctx-size", "--max-model-len"},
    {"-t", "--threads"},
    {"--threads-batch", "--threads"},
    {"-b", "--max-num-batched-tokens"},
    {"--batch-size", "--max-num-batched-tokens"},
    {"-ub", "--max-num-batched-tokens"},
    {"--ubatch-size", "--max-num-batched-tokens"},
    {"-np", "--max-num-seqs"},
    {"--parallel", "--max-num-seqs"},
    {"-n", "--max-tokens"},
    {"--n-predict", "--max-tokens"},
    {"--predict", "--max-tokens"},
    {"--temp", "--temperature"},
    {"--repeat-penalty", "--repetition-penalty"},
    {"-p", "--prompt"},
    {"-s", "--seed"},
    {"-a", "--served-model-name"},
    {"--alias", "--served-model-name"},
    {"-ngl", "--device"},
    {"--n-gpu-layers", "--device"},
    {"--gpu-layers", "--device"},
    {"-cb", kIsAlwaysOn},
    {"--cont-batching", kIsAlwaysOn},
    {"--metrics", kIsAlwaysOn},
    {"--mlock", "leave it out"},
    {"--no-mmap", "weights are always mapped: leave it out"},
    {"--ssl-cert-file", "--tls-cert"},
    {"--ssl-key-file", "--tls-key"},
};

constexpr size_t kSlip = 3;  // of fewer letters than that

// Levenshtein's.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string NearestName(std::string_view text, std::span<const std::string> names) {
  std::string best;
  size_t best_distance = kSlip;
  for (const std::string& name : names) {
    const size_t distance = EditDistance(text, name);
    if (distance >= best_distance) continue;
    best_distance = distance;
    best = name;
  }
  return best;
}

std::string SuggestFlag(std::string_view unknown, std::span<const std::string> flags) {
  const auto is_known = [&](std::string_view flag) { return std::ranges::find(flags, flag) != flags.end(); };
  // As it is written here: --max_model_len.
  std::string spelt(unknown);
  if (spelt.starts_with("--")) std::ranges::replace(spelt, '_', '-');
  if (is_known(spelt)) return fmt::format("did you mean {}?", spelt);
  for (const auto& [foreign, ours] : kForeignFlags) {
    if (foreign != spelt) continue;
    if (!ours.starts_with('-')) return std::string(ours);
    if (is_known(ours.substr(0, ours.find(' ')))) return fmt::format("did you mean {}?", ours);
  }
  const std::string nearest = NearestName(spelt, flags);
  return nearest.empty() ? "" : fmt::format("did you mean {}?", nearest);
}

}  // namespace optserve
