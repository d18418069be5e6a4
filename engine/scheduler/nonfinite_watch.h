#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

namespace optserve {

// Tells a prompt that overflows the model, which is its own fault, however often it is tried, from a device that
// computes nonsense: that comes to NaN with different prompts.
class NonfiniteWatch {
 public:
  // A row of `step`, made from `prompt`, was not finite.
  void Note(uint64_t step, const std::vector<int32_t>& prompt) {
    uint64_t hash = 14695981039346656037ULL;  // FNV-1a, by tokens
    for (const int32_t id : prompt) hash = (hash ^ static_cast<uint32_t>(id)) * 1099511628211ULL;
    std::erase_if(seen_, [&](const Seen& seen) { return seen.hash == hash || step - seen.step > kSteps; });
    seen_.push_back({.hash = hash, .step = step});
  }

  bool is_suspect() const { return seen_.size() >= kPrompts; }

 private:
  static constexpr size_t kPrompts = 4;
  static constexpr uint64_t kSteps = 1000;

  struct Seen {
    uint64_t hash = 0;
    uint64_t step = 0;
  };

  std::deque<Seen> seen_;
};

}  // namespace optserve
