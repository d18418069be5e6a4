#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/opt_config.h"
#include "engine/planner/node.h"
#include "engine/util/step_account.h"

namespace optserve {

// A constant of the model, and how far it may be off.
struct Estimate {
  double fast = 0.0;
  double likely = 0.0;
  double slow = 0.0;
};

// What an engine makes of a node. The efficiencies are fractions of what the node can do at best.
struct EngineProfile {
  std::string_view name;
  Estimate read_efficiency;    // weights
  Estimate matrix_efficiency;  // products
  Estimate kv_efficiency;      // the KV cache, read by decoding
  Estimate layer_seconds;      // launches, gaps and small kernels of a layer
  // An all-reduce of few bytes over n ranks takes base + (n - 1) * rank.
  Estimate all_reduce_seconds;
  Estimate all_reduce_rank_seconds;
  Estimate step_seconds;      // host, sampling and what else a step costs once
  Estimate sequence_seconds;  // and for each sequence in it
  std::string_view source;
};

// Ours, for GPUs and for CPUs, and engines that others have measured: if the model does not reproduce those by changing
// constants alone, it has no say about ours. NotFound lists the names that there are.
absl::StatusOr<EngineProfile> FindEngineProfile(std::string_view name);

// What a step has to do.
struct StepWork {
  int64_t num_tokens = 0;      // computed
  int64_t num_sequences = 0;   // that take part
  int64_t num_samples = 0;     // rows of logits
  int64_t kv_tokens = 0;       // KV entries read: the sum of the context lengths of all sequences
  int64_t attended_pairs = 0;  // the sum over computed tokens of the tokens each attends to
};
StepWork DecodeWork(int64_t num_sequences, int64_t context_tokens);  // each at that context
StepWork PrefillWork(int64_t prompt_tokens);                         // one prompt, whole

// Where a step's time goes. Seconds.
struct StepCost {
  double products = 0.0;    // linear layers: reading weights, or multiplying, whichever takes longer
  double head = 0.0;        // the same for the logits
  double kv = 0.0;          // reading the KV cache
  double attention = 0.0;   // multiplying in attention
  double all_reduce = 0.0;  // 2 a layer
  double layers = 0.0;      // launches and gaps
  double host = 0.0;        // once a step and for each sequence
  double total() const { return products + head + kv + attention + all_reduce + layers + host; }
};

enum class Outlook { kFast, kLikely, kSlow };

// Time and memory of OPT steps on a node, from counts of bytes, multiplications and messages. Every rank does the same,
// so one rank's time is the step's. Pure arithmetic; any thread.
class CostModel {
 public:
  struct Options {
    OptConfig model;
    NodeSpec node;
    EngineProfile profile;
    int32_t tensor_parallel_size = 1;
    double weight_bytes = 2.0;  // of one parameter; 2: f16, 1: int8
    double kv_bytes = 2.0;      // of one number in the KV cache
  };

  explicit CostModel(Options options);

  StepCost Step(const StepWork& work, Outlook outlook = Outlook::kLikely) const;

  // What all ranks together cannot do without, whatever the node.
  StepDemand Demand(const StepWork& work) const;

  // Of one rank. Positions, norms and the biases of row-parallel layers are on every rank; vocabulary rows and all else
  // are divided.
  double WeightBytes() const;
  double KvBytesPerToken() const;
  // Tokens that the KV cache has room for; below 0: the weights alone do not fit.
  int64_t KvTokens() const;

  const Options& options() const { return options_; }

 private:
  double LinearParameters() const;  // of one rank, that a step reads
  double HeadParameters() const;

  const Options options_;
};

}  // namespace optserve
