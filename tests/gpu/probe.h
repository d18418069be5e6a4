#pragma once

#include <cstdint>

#include "kernels/common/half.h"

namespace optserve::probe {

// Queues on `stream`: numbers as RandomCheckpoint's, of any sign and of the size of a trained model's weights.
void FillRandom(void* stream, F16* out, int64_t count, uint32_t seed);

// Queues a kernel that reads `bytes` once, 16 at a time by all threads of `blocks` blocks, and writes what keeps the
// compiler from leaving that out: a word, to `sink`. What it takes is the most that any kernel can read with.
void ReadAll(void* stream, const void* from, int64_t bytes, int blocks, uint32_t* sink);

}  // namespace optserve::probe
