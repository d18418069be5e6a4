#include "server/text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>

namespace optserve {
namespace {

constexpr size_t kShortWord = 32;  // bytes; up to here a scan for the best pair beats a heap

// The whole word in two small arrays: find the best pair, close the gap, look up the two new pairs.
void MergeShortWord(const MergeTable& merges, std::span<const int32_t> tokens, std::vector<int32_t>& ids) {
  std::array<int32_t, kShortWord> symbols;
  std::array<MergeTable::Merge, kShortWord> pairs;  // pairs[i]: what symbols[i] and symbols[i + 1] would become
  size_t n = tokens.size();
  std::ranges::copy(tokens, symbols.begin());
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = merges.Find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    const auto best = std::min_element(pairs.begin(), pairs.begin() + (n - 1),
                                       [](const auto& a, const auto& b) { return a.rank < b.rank; });
    if (best->rank == MergeTable::kNoRank) break;
    const size_t i = best - pairs.begin();
    symbols[i] = best->result;
    std::copy(symbols.begin() + i + 2, symbols.begin() + n, symbols.begin() + i + 1);
    std::copy(pairs.begin() + i + 1, pairs.begin() + (n - 1), pairs.begin() + i);
    --n;
    if (i > 0) pairs[i - 1] = merges.Find(symbols[i - 1], symbols[i]);
    if (i + 1 < n) pairs[i] = merges.Find(symbols[i], symbols[i + 1]);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + n);
}

// The word as a linked list of symbols, and a heap of candidate pairs ordered by (rank, position).
class LongWord {
 public:
  LongWord(const MergeTable& merges, std::span<const int32_t> tokens) : merges_(merges), symbols_(tokens.size()) {
    std::vector<uint64_t> candidates;
    candidates.reserve(tokens.size());
    for (uint32_t i = 0; i < tokens.size(); ++i) {
      symbols_[i] = {.id = tokens[i], .previous = i - 1, .next = i + 1};  // i - 1 wraps to kNone at the start
      if (i + 1 == tokens.size()) break;
      symbols_[i].rank = merges.Find(tokens[i], tokens[i + 1]).rank;
      if (symbols_[i].rank != MergeTable::kNoRank) candidates.push_back(Candidate(symbols_[i].rank, i));
    }
    symbols_.back().next = kNone;
    heap_ = Heap(std::greater<>(), std::move(candidates));
  }

  void MergeAll() {
    while (!heap_.empty()) {
      const uint64_t candidate = heap_.top();
      heap_.pop();
      const auto i = static_cast<uint32_t>(candidate);
      // A candidate is stale when its pair has changed since: the symbol's own rank is the truth.
      if (symbols_[i].rank == candidate >> 32) MergeAt(i);
    }
  }

  void AppendTo(std::vector<int32_t>& ids) const {
    for (uint32_t i = 0; i != kNone; i = symbols_[i].next) ids.push_back(symbols_[i].id);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Symbol {
    int32_t id = 0;
    uint32_t rank = MergeTable::kNoRank;  // of the pair that starts here; kNoRank also once swallowed by the left
    uint32_t previous = kNone;
    uint32_t next = kNone;
  };
  using Heap = std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>>;

  static uint64_t Candidate(uint32_t rank, uint32_t position) { return static_cast<uint64_t>(rank) << 32 | position; }

  void MergeAt(uint32_t i) {
    Symbol& left = symbols_[i];
    Symbol& right = symbols_[left.next];
    left.id = merges_.Find(left.id, right.id).result;
    left.next = right.next;
    right.rank = MergeTable::kNoRank;
    if (left.next != kNone) symbols_[left.next].previous = i;
    Refresh(i);
    if (left.previous != kNone) Refresh(left.previous);
  }

  void Refresh(uint32_t i) {
    Symbol& symbol = symbols_[i];
    symbol.rank = symbol.next == kNone ? MergeTable::kNoRank : merges_.Find(symbol.id, symbols_[symbol.next].id).rank;
    if (symbol.rank != MergeTable::kNoRank) heap_.push(Candidate(symbol.rank, i));
  }

  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
  Heap heap_;
};

}  // namespace

MergeTable::MergeTable(size_t max_merges) {
  const size_t num_slots = std::bit_ceil(std::max<size_t>(2 * max_merges, 16));
  slots_.resize(num_slots);
  mask_ = num_slots - 1;
  shift_ = 64 - std::countr_zero(num_slots);
}

bool MergeTable::Insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = Key(left, right);
  size_t slot = Hash(key);
  for (; slots_[slot].key != kEmpty; slot = (slot + 1) & mask_) {
    if (slots_[slot].key == key) return false;
  }
  slots_[slot] = {.key = key, .merge = merge};
  return true;
}

void ApplyMerges(const MergeTable& merges, std::span<const int32_t> tokens, std::vector<int32_t>& ids) {
  if (tokens.empty()) return;
  if (tokens.size() <= kShortWord) return MergeShortWord(merges, tokens, ids);
  LongWord word(merges, tokens);
  word.MergeAll();
  word.AppendTo(ids);
}

}  // namespace optserve
