#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"

namespace optserve {

// Tokens to text, and where in the text each token begins. A value: a copy goes on by itself.
class TextTrack {
 public:
  // `tokenizer`: nullptr for a model without one; then no token shows anything.
  TextTrack(const Tokenizer* tokenizer, bool skip_special) : tokenizer_(tokenizer), skip_special_(skip_special) {
    if (tokenizer != nullptr) detokenizer_.emplace(*tokenizer, skip_special);
  }

  struct Piece {
    std::string text;   // as Detokenizer::Append: what became complete
    int32_t begin = 0;  // code points before the token; one that begins inside a character begins where that does
  };
  Piece Append(int32_t id);

  // As Detokenizer::Flush.
  std::string Flush();

  // Goes on behind text that did not come from Append.
  void Skip(int32_t num_code_points) { length_ += num_code_points; }

  // Code points so far; a character that is not complete does not count yet.
  int32_t length() const { return length_; }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::optional<Detokenizer> detokenizer_;
  int32_t length_ = 0;
};

}  // namespace optserve
