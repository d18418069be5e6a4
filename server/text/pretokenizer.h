#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace optserve {

// Cuts text into the words inside which byte pairs are merged: GPT-2's regular expression, as Hugging Face runs it.
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// The words cover the text, in order, without gaps. Immutable once made; any thread may call Split.
//
// Unicode  \p{L} and \p{N} are those of the installed PCRE2 (10.42: Unicode 14). A letter younger than that is taken
//          for a symbol, which shows only when a contraction follows it directly (X's).
// Time     linear in the text: every quantifier but one is possessive, and that one gives back a single character.
// Source   Radford et al. 2019 (GPT-2), encoder.py.
class Pretokenizer {
 public:
  // Fails only when PCRE2 does (out of memory, or built without Unicode).
  static absl::StatusOr<Pretokenizer> Create();

  // Appends the words of `text` to `words`, as views into it. `text` must be well-formed UTF-8 (see FindInvalidUtf8):
  // PCRE2's own check is switched off, because it would look at the whole text once per word.
  absl::Status Split(std::string_view text, std::vector<std::string_view>& words) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  using Code = std::unique_ptr<pcre2_real_code_8, CodeDeleter>;

  explicit Pretokenizer(Code code) : code_(std::move(code)) {}

  Code code_;
};

}  // namespace optserve
