#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace optserve {

// Which ops a device was given since it was last seen well, so that an error can be said of one of them. A device runs
// behind the calls: an error of a launch belongs to the last op; one that only shows when the host waits, to any.
class OpTrail {
 public:
  void Begin(const char* op) {  // a literal
    if (parts_.empty()) parts_.push_back({.mark = mark_});
    Part& part = parts_.back();
    if (part.count++ == 0) part.first = op;
    part.last = op;
  }

  // All ops so far are in front of the mark that it returns.
  long Mark() {
    parts_.push_back({.mark = ++mark_});
    return mark_;
  }
  // What is in front of the mark has gone well.
  void ClearTo(long mark) {
    std::erase_if(parts_, [mark](const Part& part) { return part.mark < mark; });
  }
  void Clear() { parts_.clear(); }

  // "Linear"; empty: no op since.
  std::string Last() const {
    const char* last = "";
    for (const Part& part : parts_) last = part.count > 0 ? part.last : last;
    return last;
  }
  // "Linear", or "one of 42 ops, Embedding to Sample"; empty: no op since.
  std::string Any() const {
    const char* first = nullptr;
    long count = 0;
    for (const Part& part : parts_) {
      if (first == nullptr && part.count > 0) first = part.first;
      count += part.count;
    }
    if (count <= 1) return Last();
    return "one of " + std::to_string(count) + " ops, " + first + " to " + Last();
  }

 private:
  // The ops between two marks.
  struct Part {
    long mark = 0;
    const char* first = "";
    const char* last = "";
    long count = 0;
  };
  std::vector<Part> parts_;  // one more than marks that nobody has cleared to
  long mark_ = 0;
};

}  // namespace optserve
