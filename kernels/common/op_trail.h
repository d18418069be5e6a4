#pragma once

#include <string>

namespace optserve {

// Which ops a device was given since it was last seen well, so that an error can be said of one of them. A device runs
// behind the calls: an error of a launch belongs to the last op; one that only shows when the host waits, to any.
class OpTrail {
 public:
  void Begin(const char* op) {  // a literal
    if (count_++ == 0) first_ = op;
    last_ = op;
  }
  void Clear() { count_ = 0; }

  // "Linear"; empty: no op since.
  std::string Last() const { return count_ > 0 ? last_ : ""; }
  // "Linear", or "one of 42 ops, Embedding to Sample"; empty: no op since.
  std::string Any() const {
    if (count_ <= 1) return Last();
    return "one of " + std::to_string(count_) + " ops, " + first_ + " to " + last_;
  }

 private:
  const char* first_ = "";
  const char* last_ = "";
  long count_ = 0;
};

}  // namespace optserve
