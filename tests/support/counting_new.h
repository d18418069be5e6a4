#pragma once

#include <cstdint>

namespace optserve {

// Calls of operator new so far, by any thread. Only in a binary that links optserve_counting_new, which replaces the
// operator; not together with a sanitizer, which does the same.
uint64_t NumAllocations();

}  // namespace optserve
