#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/linear/linear.h"

namespace optserve {

// The numbers that make an OPT: a size is a row of these, never a subclass. Field comments give config.json's key.
struct OptConfig {
  int32_t num_layers = 12;                    // num_hidden_layers
  int32_t hidden_size = 768;                  // hidden_size, old files: d_model
  int32_t num_heads = 12;                     // num_attention_heads
  int32_t ffn_size = 3072;                    // ffn_dim
  int32_t vocab_size = 50272;                 // vocab_size
  int32_t max_positions = 2048;               // max_position_embeddings; the table has 2 rows more
  int32_t embed_size = 768;                   // word_embed_proj_dim; differs from hidden_size for 350M (projections)
  bool layer_norm_first = true;               // do_layer_norm_before; false for 350M
  bool final_layer_norm = true;               // layer_norm_first and not _remove_final_layer_norm
  bool has_bias = true;                       // enable_bias, old files: bias. Tensors decide; a missing bias is 0
  bool layer_norm_affine = true;              // layer_norm_elementwise_affine
  bool tied_embeddings = true;                // tie_word_embeddings
  Activation activation = Activation::kRelu;  // activation_function: relu, gelu
  int32_t bos_token_id = 2;
  int32_t pad_token_id = 1;
  std::vector<int32_t> eos_token_ids = {
      2};  // eos_token_id of generation_config.json, else config.json; a number or a list

  int32_t head_size() const { return hidden_size / num_heads; }
  bool has_projections() const { return embed_size != hidden_size; }
};

// Reads config.json (and generation_config.json if it is there). InvalidArgument names file, key, value and what is
// allowed; absent keys take the library's defaults (shared names and defaults: Hugging Face OPTConfig).
//
// `config_file`, if given, is a file of the user's that is read instead of the directory's config.json.
absl::StatusOr<OptConfig> LoadOptConfig(const std::string& model_directory, const std::string& config_file = "");

// The text of such a file. NotFound / InvalidArgument with its path.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);
absl::StatusOr<OptConfig> ParseOptConfig(std::string_view config_json, std::string_view generation_config_json = "");

// Refuses a tensor-parallel size that does not divide the heads or the ffn; the message lists the sizes that do.
absl::Status CheckTensorParallelSize(const OptConfig& config, int32_t tensor_parallel_size);

// With deterministic_tp, products whose input is split over ranks are sums of so many slices of equal size, by a binary
// tree, whatever the number of ranks: a power of two that divides heads and ffn size, at most 16.
int32_t NumTreeSlices(const OptConfig& config);

// InvalidArgument: the slices cannot be dealt out evenly to so many ranks.
absl::Status CheckDeterministicTensorParallelSize(const OptConfig& config, int32_t tensor_parallel_size);

}  // namespace optserve
