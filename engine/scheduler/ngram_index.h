#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace optserve {

// Which tokens would end an n-gram that a growing sequence already has (no_repeat_ngram_size). Adding a token and
// asking are O(n) at worst and O(1) on average, so a sequence of T tokens costs O(T).
class NgramIndex {
 public:
  // `tokens` is read through the pointer by every call below; it only ever grows. n >= 1.
  NgramIndex(const std::vector<int32_t>* tokens, int32_t n);

  NgramIndex(const NgramIndex&) = delete;
  NgramIndex& operator=(const NgramIndex&) = delete;

  // Takes in what was appended to the tokens since the last call.
  void Update();

  // The tokens t for which (last n - 1 tokens, t) stands in the sequence already: distinct, in order of appearance.
  std::span<const int32_t> Banned() const;

 private:
  // A run of tokens that ends before position `end`; the length is the table's.
  struct RunHash {
    const NgramIndex* index;
    int32_t length;
    size_t operator()(int32_t end) const;
  };
  struct RunEqual {
    const NgramIndex* index;
    int32_t length;
    bool operator()(int32_t a, int32_t b) const;
  };

  const std::vector<int32_t>& tokens_;
  const int32_t n_;
  std::vector<uint64_t> prefix_hashes_;  // [tokens + 1] polynomial, so that a run's hash is a difference
  std::vector<uint64_t> powers_;         // [tokens + 1]
  std::unordered_set<int32_t, RunHash, RunEqual> ngrams_;                               // n tokens
  std::unordered_map<int32_t, std::vector<int32_t>, RunHash, RunEqual> continuations_;  // n - 1 tokens -> what followed
};

}  // namespace optserve
