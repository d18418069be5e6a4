#include "server/commands/freed_memory.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

// Tries, on two cores at load 12 to 22. Three floods in turn (rapid_reset, reset_before_body, continuation of
// tests/faults/flooder.py, half a second each on two connections), twelve of them without a pause, and what the front
// end has resident in MiB; before them 21.
//
//   try                          after 3, 6, 9, 12     12 s later  32 s later
//   nothing                      328, 596, 982, 1062   1049        1049: malloc had 914, of which 913 were free
//   MALLOC_ARENA_MAX=2           228, 564, 941, 1033
//   MALLOC_ARENA_MAX=1           154, 483, 555, 578
//   this                         504, 740, 1059, 968   330         73
//   this, MALLOC_ARENA_MAX=1     689, 318, 763, 941    842         56
//   this, 24 floods, 30 s in     .. 794 at most        771         122
//   place of kAtLeast
//
// So it is no leak: gRPC works off what has come, for seconds, and then 1 MiB lives. Its quota bounds what lives
// meanwhile (256 MiB). Fewer heaps do not help by themselves, so their number stays.
//
// malloc_trim holds a heap's lock while it looks through it: 120 ms of a core for 800 MiB in 800000 pieces in one heap,
// every seventh of them alive, and 50 ms if there was nothing to give.

namespace optserve {
namespace {

// What a busy server may well need again.
constexpr size_t kSmallBytes = 128u << 20;
constexpr size_t kGrownBytes = 64u << 20;

// Of a process that was large and does not grow: what it holds may have been freed since.
constexpr std::chrono::seconds kAtLeast{10};

// 0 if the system does not tell.
size_t ResidentBytes() {
  size_t all_pages = 0;
  size_t resident_pages = 0;
  std::ifstream statm("/proc/self/statm");
  statm >> all_pages >> resident_pages;
  return resident_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

void FreedMemory::GiveBack(Clock::time_point now) {
  if (now < next_) return;
  next_ = now + kPeriod;
  const size_t bytes = ResidentBytes();
  resident_bytes_ = std::min(resident_bytes_, bytes);
  if (bytes < kSmallBytes || (bytes < resident_bytes_ + kGrownBytes && now < last_ + kAtLeast)) return;
  malloc_trim(0);
  last_ = now;
  resident_bytes_ = ResidentBytes();
}

}  // namespace optserve
