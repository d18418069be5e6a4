#pragma once

#include <cstdint>
#include <span>

namespace optserve {

// Up to how many rows which of our own kernels is used for a product, and the library's from there on: a line of the
// table for each shape of OPT, whole and in parts, and each generation of GPUs. The choice is the table's alone, never
// that of a clock at run time, so that two runs give the same bits.
//
// `gpu_linear_table` measures a new table on a GPU and prints it as linear_table.inc has it.
struct LinearTableLine {
  int sm_version = 0;
  int64_t columns = 0, depth = 0;  // [columns, depth] of the weight; q, k and v are one of three times the columns
  int64_t max_skinny_rows = 0;     // on the ordinary cores
  int64_t max_wmma_rows = 0;       // on the tensor cores, from the row after those; the same number if never
  const char* source = "";         // the GPU and date of the measurement, or kModelled
};

inline constexpr char kModelled[] = "modelled, not yet measured";

std::span<const LinearTableLine> LinearTable();

// The line whose generation is the newest that is no newer than `sm_version` (else the oldest), and of those the one of
// the nearest shape: the smallest sum of the two ratios, as powers of two; the first of equals.
const LinearTableLine& NearestLine(int sm_version, int64_t columns, int64_t depth);

}  // namespace optserve
