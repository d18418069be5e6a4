#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace optserve {

// Names the contents of a KV block: its tokens, all tokens before them, and who may know them. 128 bits of a keyed
// hash, so that equal names mean equal contents.
struct PrefixHash {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const PrefixHash&) const = default;
};

// A secret of this process: whoever does not know it can neither make two prefixes collide nor tell what a hash is of.
using PrefixSecret = std::array<uint64_t, 2>;

// Hashes prefixes block by block: each hash covers the one before it. SipHash-2-4 with 128 bits of output (Aumasson and
// Bernstein 2012; the authors' reference code, github.com/veorq/SipHash). Pure; any thread.
class PrefixHasher {
 public:
  explicit PrefixHasher(const PrefixSecret& secret) : secret_(secret) {}

  // The start of a chain. Different pairs never share a block.
  PrefixHash Root(std::string_view api_key_id, std::string_view cache_salt) const;
  PrefixHash Extend(const PrefixHash& before, std::span<const int32_t> tokens) const;

 private:
  const PrefixSecret secret_;
};

// SipHash-2-4-128 of `bytes`.
PrefixHash SipHash128(const PrefixSecret& secret, std::string_view bytes);

}  // namespace optserve
