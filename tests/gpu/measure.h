#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

// What the benchmarks of this folder share: memory, the machine's roofs, times, and lines of JSON for report.py.

namespace optserve {

// Ends the program with the error, as benchmarks may.
void ExitOnError(const absl::Status& status);

// Memory of the backend; ends the program if there is not so much left.
std::unique_ptr<Buffer> Take(Backend& backend, int64_t bytes);

// Seconds of one of many calls in a row, at least `at_least` seconds of them, after one that is not counted. With 0,
// those of a single call.
double SecondsOf(Backend& backend, double at_least, const std::function<void()>& call);

// The best that this GPU does, measured.
struct Roofs {
  double read_bytes_per_second = 0;
  double copy_bytes_per_second = 0;  // read and written, by our own kernel
  double flops = 0;                  // the library's product of large matrices, f16 in, f32 sums
};
// Takes some gigabytes and gives them back; with `smoke` some megabytes, whose figures say nothing.
Roofs MeasureRoofs(Backend& backend, bool smoke);

// One line of the report.
struct Figure {
  std::string name;     // "6.7b decode, batch 1"
  double seconds = 0;   // of one
  double achieved = 0;  // in `unit`
  std::string unit;     // "tokens/s"
  double ratio = 0;     // of `of`; 0: it is of nothing
  std::string of;       // "read bandwidth"
};
void Print(const Figure& figure);
// A figure that this GPU cannot give.
void PrintMissing(const std::string& name, const std::string& why);
void Print(const Roofs& roofs);

// "1,8,32" as {"1", "8", "32"}.
std::vector<std::string> SplitList(const std::string& text);

// The options of a benchmark, `--name value` or `--flag`: what is not among `known` (a flag ends with '!') ends the
// program with the list of them.
class Options {
 public:
  Options(int argc, char** argv, std::vector<std::string> known);
  bool Has(const std::string& name) const;
  std::string Get(const std::string& name, const std::string& otherwise) const;

 private:
  std::vector<std::pair<std::string, std::string>> given_;
};

// GPU 0, or ends the program: 3, there is none.
std::unique_ptr<Backend> OpenGpu();

}  // namespace optserve
