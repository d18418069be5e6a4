#pragma once

#include <cstdint>
#include <span>

#include "kernels/sampling/sampling.h"

// The tokens that a row may draw, on the host.

namespace optserve {

struct Candidate {
  float weight = 0.0f;  // in proportion to its probability
  float key = 0.0f;     // the logit: larger is better, also where rounding makes two weights equal
  int32_t id = 0;
};

// Cuts `candidates` (any order, not empty, weights >= 0, not all 0) by top-k, top-p, min-p and typical-p, in that
// order; each sees what the one before left, renormalised. Returns how many are kept; they are the first of
// `candidates` afterwards, in no particular order. At least one is.
//
// The candidates may be fewer than the whole row: with top-k the best k suffice, without it whatever reaches top-p's
// mass. `total` is the weight of the whole row. `key` is overwritten.
//
// Time  linear in the number of candidates.
int64_t KeepCandidates(std::span<Candidate> candidates, double total, const SampleRow& row);

// The id at `uniform` (in [0, 1)) of the distribution in id order. The candidates (any order, weights not all 0) are
// reordered.
int32_t Draw(std::span<Candidate> candidates, double uniform);

}  // namespace optserve
