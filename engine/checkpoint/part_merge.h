#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace optserve {

// How the parts of a tensor, one for each rank of a tensor-parallel group, make the whole.
enum class Merge { kRows, kColumns, kSame };

// By the end of a tensor's name, which is the same in metaseq's files and in Hugging Face's. model/sharding.h says it
// of a model's tensors; this is for files that were cut before.
inline Merge MergeOf(std::string_view name) {
  constexpr std::array<std::string_view, 11> kRows = {"embed_tokens.weight",
                                                      "q_proj.weight",
                                                      "k_proj.weight",
                                                      "v_proj.weight",
                                                      "fc1.weight",
                                                      "q_proj.bias",
                                                      "k_proj.bias",
                                                      "v_proj.bias",
                                                      "fc1.bias",
                                                      "lm_head.weight",
                                                      "output_projection.weight"};
  constexpr std::array<std::string_view, 2> kColumns = {"out_proj.weight", "fc2.weight"};
  const auto ends_name = [name](std::string_view suffix) { return name.ends_with(suffix); };
  if (std::any_of(kRows.begin(), kRows.end(), ends_name)) return Merge::kRows;
  if (std::any_of(kColumns.begin(), kColumns.end(), ends_name)) return Merge::kColumns;
  return Merge::kSame;
}

}  // namespace optserve
