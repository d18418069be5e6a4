#include "server/text/detokenizer.h"

#include "server/text/tokenizer.h"

namespace optserve {

std::string Detokenizer::Append(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return {};
  return stream_.Push(tokenizer_->TokenBytes(id));
}

}  // namespace optserve
