#pragma once

#include <cstdint>
#include <span>

#include "kernels/sampling/sampling.h"

// The tokens that a row may draw, on the host.

namespace optserve {

struct Candidate {
  float weight = 0.0f;  // in proportion to its probability
  int32_t id = 0;
};

// Cuts `candidates` (any order, weights >= 0, not all 0) by top-k, top-p, min-p and typical-p, in that order; each sees
// what the one before left, renormalised. Returns how many are kept; they are the first of `candidates` afterwards, in
// no particular order. At least one is.
//
// Time  linear while the kept set is small: only as much is sorted as top-p needs to look at.
int64_t KeepCandidates(std::span<Candidate> candidates, const SampleRow& row);

// The id at `uniform` (in [0, 1)) of the distribution, going through the candidates in the order given.
int32_t Draw(std::span<const Candidate> candidates, double uniform);

}  // namespace optserve
