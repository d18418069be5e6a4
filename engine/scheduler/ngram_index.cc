#include "engine/scheduler/ngram_index.h"

#include <algorithm>

namespace optserve {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15ULL;  // odd; equality is compared, so a collision costs time only

}  // namespace

size_t NgramIndex::RunHash::operator()(int32_t end) const {
  const uint64_t hash = index->prefix_hashes_[end] - index->prefix_hashes_[end - length] * index->powers_[length];
  return (hash ^ (hash >> 32)) * kBase;
}

bool NgramIndex::RunEqual::operator()(int32_t a, int32_t b) const {
  const auto begin = index->tokens_.begin();
  return std::equal(begin + a - length, begin + a, begin + b - length);
}

NgramIndex::NgramIndex(const std::vector<int32_t>* tokens, int32_t n)
    : tokens_(*tokens),
      n_(n),
      prefix_hashes_{0},
      powers_{1},
      ngrams_(0, RunHash{this, n}, RunEqual{this, n}),
      continuations_(0, RunHash{this, n - 1}, RunEqual{this, n - 1}) {}

void NgramIndex::Update() {
  for (size_t i = prefix_hashes_.size() - 1; i < tokens_.size(); ++i) {
    prefix_hashes_.push_back(prefix_hashes_.back() * kBase + static_cast<uint64_t>(tokens_[i]) + 1);
    powers_.push_back(powers_.back() * kBase);
    const auto end = static_cast<int32_t>(i) + 1;
    if (end >= n_ && ngrams_.insert(end).second) continuations_[end - 1].push_back(tokens_[i]);
  }
}

std::span<const int32_t> NgramIndex::Banned() const {
  const auto end = static_cast<int32_t>(tokens_.size());
  if (end < n_ - 1) return {};
  const auto found = continuations_.find(end);
  return found == continuations_.end() ? std::span<const int32_t>() : std::span<const int32_t>(found->second);
}

}  // namespace optserve
