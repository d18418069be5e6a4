#include "engine/scheduler/prefix_hash.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace optserve {
namespace {

TEST(PrefixHashTest, SipHashIsTheReferenceOne) {
  // vectors.h of the reference code: key 00 01 .. 0f, message 00 01 .. of each length.
  const PrefixSecret secret = {0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL};
  std::string message;
  EXPECT_EQ(SipHash128(secret, message), (PrefixHash{0xe6a825ba047f81a3ULL, 0x930255c71472f66dULL}));
  message.push_back(0);
  EXPECT_EQ(SipHash128(secret, message), (PrefixHash{0x44af996bd8c187daULL, 0x45fc229b11597634ULL}));
  for (char c = 1; c < 15; ++c) message.push_back(c);
  EXPECT_EQ(SipHash128(secret, message), (PrefixHash{0x11a8b03399e99354ULL, 0xd9c3cf970fec087eULL}));
}

TEST(PrefixHashTest, EverythingBeforeABlockCounts) {
  const PrefixHasher hasher({1, 2});
  const std::vector<int32_t> a = {1, 2, 3};
  const std::vector<int32_t> b = {1, 2, 4};
  std::vector<PrefixHash> all;
  for (const char* key : {"", "a", "b", "ab"}) {
    for (const char* salt : {"", "a", "b"}) {
      const PrefixHash root = hasher.Root(key, salt);
      all.push_back(root);
      for (const auto* first : {&a, &b}) {
        const PrefixHash hash = hasher.Extend(root, *first);
        all.push_back(hash);
        all.push_back(hasher.Extend(hash, a));
      }
    }
  }
  std::set<std::pair<uint64_t, uint64_t>> different;
  for (const PrefixHash& hash : all) different.emplace(hash.low, hash.high);
  EXPECT_EQ(different.size(), all.size());
  EXPECT_EQ(hasher.Extend(hasher.Root("x", "y"), a), PrefixHasher({1, 2}).Extend(hasher.Root("x", "y"), a));
  EXPECT_NE(hasher.Root("x", "y"), PrefixHasher({1, 3}).Root("x", "y")) << "the secret counts";
}

}  // namespace
}  // namespace optserve
