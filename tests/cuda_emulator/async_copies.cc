#include "tests/cuda_emulator/scheduler.h"

// Copies from global to shared memory that threads start and wait for later. When they arrive is up to the emulator:
// by default as late as possible, and until then there is poison.

namespace optserve::emulator {
namespace {

CopyingThread* Self() { return static_cast<CopyingThread*>(current); }

void DoCopy(const Copy& copy) {
  std::memcpy(copy.dst, copy.src, copy.valid_bytes);
  std::memset(static_cast<char*>(copy.dst) + copy.valid_bytes, 0, copy.bytes - copy.valid_bytes);
}

}  // namespace

void AsyncCopy(void* dst, const void* src, unsigned bytes, unsigned valid_bytes, Place place) {
  const auto misaligned = [&](const void* p) { return (reinterpret_cast<uintptr_t>(p) & (bytes - 1)) != 0; };
  if (misaligned(dst) || (valid_bytes > 0 && misaligned(src))) Fail("misaligned copy at " + Where(place));
  CheckAccess(dst, bytes, true);
  if (valid_bytes > 0) CheckAccess(src, valid_bytes, false);
  const RuntimeScope scope;
  const Copy copy{dst, src, bytes, valid_bytes};
  const int mode = config().async_copy;
  if (mode == 0 || (mode == 1 && (Random() & 1) != 0)) return DoCopy(copy);
  std::memset(dst, 0xff, bytes);
  MarkInFlight(dst, bytes, true);
  Self()->open.push_back(copy);
}

void AsyncCopyCommit() {
  const RuntimeScope scope;
  CopyingThread* me = Self();
  me->groups.push_back(std::move(me->open));
  me->open.clear();
}

void AsyncCopyWait(int groups_left) {
  CopyingThread* me = Self();
  while (static_cast<int>(me->groups.size()) > groups_left) {
    std::vector<Copy> done;
    {
      const RuntimeScope scope;
      done = std::move(me->groups.front());
      me->groups.erase(me->groups.begin());
      for (const Copy& copy : done) {
        DoCopy(copy);
        MarkInFlight(copy.dst, copy.bytes, false);
      }
    }
    for (const Copy& copy : done) CheckAccess(copy.dst, copy.bytes, true);
  }
}

}  // namespace optserve::emulator
