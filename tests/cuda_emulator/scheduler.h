#pragma once

#include <mutex>

#include "tests/cuda_emulator/emulator.h"

// What the parts of the emulator know of each other.

#if defined(__SANITIZE_ADDRESS__)
#define OPTSERVE_EMULATOR_ASAN 1
#else
#define OPTSERVE_EMULATOR_ASAN 0
#endif

namespace optserve::emulator {

// Held by everything that changes the table of memory, and in check builds during a launch.
std::recursive_mutex& mutex();

// Inside the emulator the compiler's hooks do nothing: templates of the standard library may come from an instrumented
// file, and reporting on ourselves would never end.
extern constinit thread_local bool in_runtime;
class RuntimeScope {
 public:
  RuntimeScope() : old_(in_runtime) { in_runtime = true; }
  ~RuntimeScope() { in_runtime = old_; }

 private:
  bool old_;
};

// Time as the race checker counts it, in check builds: each barrier of a block, and each of its warps' __syncwarp,
// begins a new epoch.
struct Epochs {
  uint32_t barrier = 0;  // of the running block's last barrier
  uint32_t block = 0;    // when the running block began
  uint32_t launch = 0;
};
extern Epochs epochs;
uint32_t WarpEpoch(int warp);

// A copy that a thread has started (async_copies.cc).
struct Copy {
  void* dst;
  const void* src;
  unsigned bytes, valid_bytes;
};
struct CopyingThread : Thread {
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;                 // not yet committed
};

// Called between two looks at words by one of so many threads that all do nothing else; may sleep (host_words.cc).
void WaitForWords(size_t threads_polling);

std::string Where(const Place& place);  // "file.cu:12"
uint64_t Random();
void Yield();                        // another thread may run
bool IsFiberMemory(const void* at);  // a stack, or the emulator's own record of a thread
const void* KernelParameters(size_t* bytes);

// Memory of the running block (memory_checker.cc).
void BeginBlockMemory(size_t dynamic_bytes);
void EndBlockMemory();
void BeginLaunchMemory();

// Shared memory that a copy is under way to.
void MarkInFlight(void* at, size_t bytes, bool in_flight);

}  // namespace optserve::emulator
