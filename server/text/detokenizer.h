#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/text/utf8.h"

namespace optserve {

class Tokenizer;

// Tokens to text, one at a time, for one choice. Every piece is well-formed UTF-8: the bytes of a character that is
// split over tokens wait for its last token, and what cannot become a character is U+FFFD at once. The pieces, with
// Flush(), concatenate to Tokenizer::Decode of all the ids.
//
// No threads: one per choice. The tokenizer must outlive it.
class Detokenizer {
 public:
  // `skip_special`: special tokens (</s>, <pad>) show nothing.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // The text that became complete with this token; often empty in the middle of a character. An id without a token
  // shows nothing.
  std::string Append(int32_t id);

  // At the end: U+FFFD when the last character never was completed, else nothing.
  std::string Flush() { return stream_.Flush(); }

  // The bytes of a character that waits for its last token.
  std::string_view pending() const { return stream_.pending(); }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  Utf8Stream stream_;
};

}  // namespace optserve
