#include "engine/model/opt_sizes.h"

#include <array>
#include <cctype>
#include <string>

#include "engine/util/status.h"

namespace optserve {
namespace {

OptConfig Shape(int32_t layers, int32_t hidden, int32_t heads) {
  return {
      .num_layers = layers, .hidden_size = hidden, .num_heads = heads, .ffn_size = 4 * hidden, .embed_size = hidden};
}

// The one that differs: post-LN and a narrower embedding.
OptConfig Shape350m() {
  OptConfig config = Shape(24, 1024, 16);
  config.embed_size = 512;
  config.layer_norm_first = false;
  config.final_layer_norm = false;
  return config;
}

const std::array<OptSize, 9>& Table() {
  static const std::array<OptSize, 9> table = {{
      {"opt-125m", Shape(12, 768, 12)},
      {"opt-350m", Shape350m()},
      {"opt-1.3b", Shape(24, 2048, 32)},
      {"opt-2.7b", Shape(32, 2560, 32)},
      {"opt-6.7b", Shape(32, 4096, 32)},
      {"opt-13b", Shape(40, 5120, 40)},
      {"opt-30b", Shape(48, 7168, 56)},
      {"opt-66b", Shape(64, 9216, 72)},
      {"opt-175b", Shape(96, 12288, 96)},
  }};
  return table;
}

}  // namespace

std::span<const OptSize> OptSizes() { return Table(); }

absl::StatusOr<OptConfig> FindOptSize(std::string_view name) {
  std::string wanted(name.substr(name.rfind('/') + 1));
  for (char& c : wanted) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::string known;
  for (const OptSize& size : OptSizes()) {
    if (wanted == size.name || "opt-" + wanted == size.name) return size.config;
    known += known.empty() ? "" : ", ";
    known += size.name;
  }
  return NotFound("\"{}\" is no OPT size; there are {}", name, known);
}

}  // namespace optserve
