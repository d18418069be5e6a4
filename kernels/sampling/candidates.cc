#include "kernels/sampling/candidates.h"

#include <algorithm>
#include <cmath>

namespace optserve {
namespace {

using Candidates = std::span<Candidate>;

bool Better(const Candidate& a, const Candidate& b) { return a.key != b.key ? a.key > b.key : a.id < b.id; }

double Total(std::span<const Candidate> candidates) {
  double total = 0.0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

Candidates TopK(Candidates all, int32_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= all.size()) return all;
  std::nth_element(all.begin(), all.begin() + (k - 1), all.end(), Better);
  return all.first(k);
}

// Moves the first candidates in the order of `before` to the front: as few as are needed for `reached` to hold of the
// sum of their weights. Returns how many that are: all, if it never holds. Time linear: each round halves the range
// that the last of them is in.
template <typename Before, typename Reached>
size_t SelectPrefix(Candidates all, Before before, Reached reached) {
  constexpr size_t kSortable = 64;
  size_t begin = 0, end = all.size();
  double sum = 0.0;  // of [0, begin), not yet enough
  while (end - begin > kSortable) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(all.begin() + begin, all.begin() + middle, all.begin() + end, before);
    const double more = Total(all.subspan(begin, middle - begin));
    if (reached(sum + more)) {
      end = middle;
    } else {
      sum += more;
      begin = middle;
    }
  }
  std::sort(all.begin() + begin, all.begin() + end, before);
  for (; begin < end; ++begin) {
    sum += all[begin].weight;
    if (reached(sum)) return begin + 1;
  }
  return end;
}

// The best candidates whose weights reach `mass`.
Candidates PrefixOfMass(Candidates all, double mass) {
  return all.first(SelectPrefix(all, Better, [mass](double sum) { return sum >= mass; }));
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
  const auto log_total = static_cast<float>(std::log(total));
  double entropy = 0.0;
  for (Candidate& candidate : all) {
    candidate.key = log_total - std::log(candidate.weight);  // infinite for weight 0, which is then the last to be kept
    if (candidate.weight > 0.0f) entropy += candidate.weight / total * candidate.key;
  }
  for (Candidate& candidate : all) candidate.key = -std::abs(candidate.key - static_cast<float>(entropy));
  return PrefixOfMass(all, double{typical_p} * total);
}

}  // namespace

int64_t KeepCandidates(Candidates candidates, double total, const SampleRow& row) {
  Candidates kept = TopK(candidates, row.top_k);
  if (row.top_p < 1.0f) kept = PrefixOfMass(kept, double{row.top_p} * (row.top_k > 0 ? Total(kept) : total));
  kept = MinP(kept, row.min_p);
  kept = TypicalP(kept, row.typical_p);
  return static_cast<int64_t>(kept.size());
}

int32_t Draw(Candidates candidates, double uniform) {
  // Without those of weight 0, the last of a prefix in id order always has a share in it.
  const auto possible =
      std::partition(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.weight > 0.0f; });
  const Candidates drawable = candidates.first(possible - candidates.begin());
  const double target = uniform * Total(drawable);
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  return drawable[SelectPrefix(drawable, by_id, [target](double sum) { return sum > target; }) - 1].id;
}

}  // namespace optserve
