#include "server/completion/text_track.h"

#include <string_view>

#include "server/text/utf8.h"

namespace optserve {
namespace {

// Whether the character that `pending` began goes on with `byte`.
bool Continues(std::string_view pending, char byte) {
  std::string character(pending);
  character += byte;
  return NextUtf8Unit(character).kind != Utf8Unit::Kind::kInvalid;
}

}  // namespace

TextTrack::Piece TextTrack::Append(int32_t id) {
  Piece piece{.begin = length_};
  if (!detokenizer_) return piece;
  const std::string_view bytes = tokenizer_->TokenBytes(id);
  const bool shows_nothing = bytes.empty() || (skip_special_ && tokenizer_->IsSpecial(id));
  const std::string_view pending = detokenizer_->pending();
  // What waits and does not go on here becomes one U+FFFD in front of the token.
  if (!shows_nothing && !pending.empty() && !Continues(pending, bytes[0])) ++piece.begin;
  piece.text = detokenizer_->Append(id);
  length_ += static_cast<int32_t>(CountCodePoints(piece.text));
  return piece;
}

std::string TextTrack::Flush() {
  if (!detokenizer_) return {};
  std::string text = detokenizer_->Flush();
  length_ += static_cast<int32_t>(CountCodePoints(text));
  return text;
}

}  // namespace optserve
