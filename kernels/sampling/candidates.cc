#include "kernels/sampling/candidates.h"

#include <algorithm>
#include <cmath>

namespace optserve {
namespace {

using Candidates = std::span<Candidate>;

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}

double Total(std::span<const Candidate> candidates) {
  double total = 0.0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

Candidates TopK(Candidates all, int32_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= all.size()) return all;
  std::nth_element(all.begin(), all.begin() + (k - 1), all.end(), Likelier);
  return all.first(k);
}

// The shortest prefix, in the order of `before`, whose weights reach `mass`. Sorts in growing pieces, so that a short
// prefix of a long list costs little more than one pass.
template <typename Before>
Candidates PrefixOfMass(Candidates all, double mass, Before before) {
  double sum = 0.0;
  size_t sorted = 0;
  for (size_t piece = 64; sorted < all.size(); piece *= 8) {
    const size_t end = std::min(all.size(), sorted + piece);
    if (end < all.size()) std::nth_element(all.begin() + sorted, all.begin() + (end - 1), all.end(), before);
    std::sort(all.begin() + sorted, all.begin() + end, before);
    for (; sorted < end; ++sorted) {
      sum += all[sorted].weight;
      if (sum >= mass) return all.first(sorted + 1);
    }
  }
  return all;
}

Candidates TopP(Candidates all, float p) {
  // Summed before anything moves. The order differs from the prefix's, so that rounding could let the last one or two
  // of thousands in or out where p is within 1e-16 of 1: no p below 1 is that close.
  return p >= 1.0f ? all : PrefixOfMass(all, double{p} * Total(all), Likelier);
}

Candidates MinP(Candidates all, float min_p) {
  if (min_p <= 0.0f) return all;
  float largest = 0.0f;
  for (const Candidate& candidate : all) largest = std::max(largest, candidate.weight);
  const auto end = std::partition(all.begin(), all.end(),
                                  [&](const Candidate& candidate) { return candidate.weight >= min_p * largest; });
  return all.first(end - all.begin());
}

Candidates TypicalP(Candidates all, float typical_p) {
  if (typical_p >= 1.0f) return all;
  const double total = Total(all);
  double entropy = 0.0;
  for (const Candidate& candidate : all) {
    const double p = candidate.weight / total;
    if (p > 0.0) entropy -= p * std::log(p);
  }
  const auto distance = [&](const Candidate& candidate) {
    return std::abs(-std::log(candidate.weight / total) - entropy);
  };
  return PrefixOfMass(all, double{typical_p} * total, [&](const Candidate& a, const Candidate& b) {
    const double da = distance(a), db = distance(b);
    return da != db ? da < db : a.id < b.id;
  });
}

}  // namespace

int64_t KeepCandidates(Candidates candidates, const SampleRow& row) {
  Candidates kept = TopK(candidates, row.top_k);
  kept = TopP(kept, row.top_p);
  kept = MinP(kept, row.min_p);
  kept = TypicalP(kept, row.typical_p);
  return static_cast<int64_t>(kept.size());
}

int32_t Draw(std::span<const Candidate> candidates, double uniform) {
  const double target = uniform * Total(candidates);
  double sum = 0.0;
  int32_t last = candidates.front().id;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight <= 0.0f) continue;  // never drawn, also not where the target is 0
    sum += candidate.weight;
    last = candidate.id;
    if (sum > target) return candidate.id;
  }
  return last;
}

}  // namespace optserve
