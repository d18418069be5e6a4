#pragma once

#include <sstream>

// OPTSERVE_CHECK(rows == other.rows) << "rows " << rows << " of " << name;
//
// For broken invariants, which are our bugs: prints file, line, condition and the values, then aborts. Always on, also
// in release. Safe in .cu files; not for *_simd.cc (kernels/common/simd.h says why).
#define OPTSERVE_CHECK(condition) \
  (condition)                     \
      ? static_cast<void>(0)      \
      : ::optserve::internal::AsVoid() & ::optserve::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

namespace optserve::internal {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return text_; }

 private:
  std::ostringstream text_;
};

// Gives both arms of the macro's ?: the type void; & binds looser than << and tighter than ?:.
struct AsVoid {
  void operator&(std::ostream&) {}
};

}  // namespace optserve::internal
