#include "kernels/linear/linear_table.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace optserve {
namespace {

constexpr LinearTableLine kTable[] = {
#include "kernels/linear/linear_table.inc"
};

double Distance(const LinearTableLine& line, int64_t columns, int64_t depth) {
  const auto apart = [](int64_t a, int64_t b) {
    return std::abs(std::log2(static_cast<double>(a)) - std::log2(static_cast<double>(b)));
  };
  return apart(line.columns, columns) + apart(line.depth, depth);
}

}  // namespace

std::span<const LinearTableLine> LinearTable() { return kTable; }

const LinearTableLine& NearestLine(int sm_version, int64_t columns, int64_t depth) {
  int generation = 0, oldest = kTable[0].sm_version;
  for (const LinearTableLine& line : kTable) {
    oldest = std::min(oldest, line.sm_version);
    if (line.sm_version <= sm_version) generation = std::max(generation, line.sm_version);
  }
  if (generation == 0) generation = oldest;
  const LinearTableLine* nearest = nullptr;
  for (const LinearTableLine& line : kTable) {
    if (line.sm_version != generation) continue;
    if (nearest == nullptr || Distance(line, columns, depth) < Distance(*nearest, columns, depth)) nearest = &line;
  }
  return *nearest;
}

}  // namespace optserve
