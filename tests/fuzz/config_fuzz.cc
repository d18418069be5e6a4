// config.json and, behind a zero byte, generation_config.json. What is read is possible, and reads the same when it is
// written out as config.json again.

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/model/opt_config.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

auto Fields(const OptConfig& c) {
  return std::tie(c.num_layers, c.hidden_size, c.num_heads, c.ffn_size, c.vocab_size, c.max_positions, c.embed_size,
                  c.layer_norm_first, c.final_layer_norm, c.has_bias, c.layer_norm_affine, c.tied_embeddings,
                  c.activation, c.bos_token_id, c.pad_token_id, c.eos_token_ids);
}

std::string Written(const OptConfig& c) {
  return nlohmann::json{{"model_type", "opt"},
                        {"num_hidden_layers", c.num_layers},
                        {"hidden_size", c.hidden_size},
                        {"num_attention_heads", c.num_heads},
                        {"ffn_dim", c.ffn_size},
                        {"vocab_size", c.vocab_size},
                        {"max_position_embeddings", c.max_positions},
                        {"word_embed_proj_dim", c.embed_size},
                        {"do_layer_norm_before", c.layer_norm_first},
                        {"_remove_final_layer_norm", !c.final_layer_norm},
                        {"enable_bias", c.has_bias},
                        {"layer_norm_elementwise_affine", c.layer_norm_affine},
                        {"tie_word_embeddings", c.tied_embeddings},
                        {"activation_function", c.activation == Activation::kRelu ? "relu" : "gelu"},
                        {"bos_token_id", c.bos_token_id},
                        {"pad_token_id", c.pad_token_id},
                        {"eos_token_id", c.eos_token_ids}}
      .dump();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input = fuzz::Text(data, size);
  const std::string_view config_json = fuzz::TakePart(input);
  const auto config = ParseOptConfig(config_json, input);
  if (!config.ok()) {
    FUZZ_CHECK(fuzz::Message(config.status()).find('\n') == std::string_view::npos);
    return 0;
  }
  FUZZ_CHECK(config->num_layers > 0 && config->num_heads > 0 && config->ffn_size > 0 && config->embed_size > 0);
  FUZZ_CHECK(config->head_size() > 0 && config->head_size() * config->num_heads == config->hidden_size);
  const auto is_id = [&](int32_t id) { return id >= 0 && id < config->vocab_size; };
  FUZZ_CHECK(is_id(config->bos_token_id) && is_id(config->pad_token_id));
  FUZZ_CHECK(std::all_of(config->eos_token_ids.begin(), config->eos_token_ids.end(), is_id));
  FUZZ_CHECK(CheckTensorParallelSize(*config, 1).ok());
  const auto again = ParseOptConfig(Written(*config));
  FUZZ_CHECK(again.ok() && Fields(*again) == Fields(*config));
  return 0;
}
