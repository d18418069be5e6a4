#include "engine/scheduler/prefix_hash.h"

#include <bit>
#include <cstring>

namespace optserve {
namespace {

class SipState {
 public:
  explicit SipState(const PrefixSecret& secret)
      : v0_(secret[0] ^ 0x736f6d6570736575ULL),
        v1_(secret[1] ^ 0x646f72616e646f6dULL ^ 0xee),  // 0xee: 128 bits of output
        v2_(secret[0] ^ 0x6c7967656e657261ULL),
        v3_(secret[1] ^ 0x7465646279746573ULL) {}

  void Add(uint64_t word) {
    v3_ ^= word;
    Round();
    Round();
    v0_ ^= word;
  }

  PrefixHash Finish() {
    PrefixHash hash;
    v2_ ^= 0xee;
    for (int i = 0; i < 4; ++i) Round();
    hash.low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    for (int i = 0; i < 4; ++i) Round();
    hash.high = v0_ ^ v1_ ^ v2_ ^ v3_;
    return hash;
  }

 private:
  void Round() {
    v0_ += v1_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v3_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ += v3_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ += v1_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v2_ = std::rotl(v2_, 32);
  }

  uint64_t v0_, v1_, v2_, v3_;
};

void AddBytes(SipState& state, std::string_view bytes) {
  uint64_t word = 0;
  for (; bytes.size() >= sizeof(word); bytes.remove_prefix(sizeof(word))) {
    std::memcpy(&word, bytes.data(), sizeof(word));
    state.Add(word);
  }
}

}  // namespace

PrefixHash SipHash128(const PrefixSecret& secret, std::string_view bytes) {
  SipState state(secret);
  AddBytes(state, bytes);
  const std::string_view rest = bytes.substr(bytes.size() / 8 * 8);
  uint64_t last = static_cast<uint64_t>(bytes.size()) << 56;
  for (size_t i = 0; i < rest.size(); ++i) last |= uint64_t{static_cast<uint8_t>(rest[i])} << (8 * i);
  state.Add(last);
  return state.Finish();
}

PrefixHash PrefixHasher::Root(std::string_view api_key_id, std::string_view cache_salt) const {
  // Two hashes of their own: no pair of strings runs into another.
  const PrefixHash key = SipHash128(secret_, api_key_id);
  const PrefixHash salt = SipHash128(secret_, cache_salt);
  SipState state(secret_);
  for (const uint64_t word : {key.low, key.high, salt.low, salt.high}) state.Add(word);
  return state.Finish();
}

PrefixHash PrefixHasher::Extend(const PrefixHash& before, std::span<const int32_t> tokens) const {
  SipState state(secret_);
  state.Add(before.low);
  state.Add(before.high);
  size_t i = 0;
  for (; i + 1 < tokens.size(); i += 2) {
    state.Add(static_cast<uint32_t>(tokens[i]) | uint64_t{static_cast<uint32_t>(tokens[i + 1])} << 32);
  }
  // All blocks are of one length, so an odd token at the end needs no mark.
  if (i < tokens.size()) state.Add(static_cast<uint32_t>(tokens[i]));
  return state.Finish();
}

}  // namespace optserve
