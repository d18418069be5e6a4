#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "tests/cuda_emulator/scheduler.h"

#if OPTSERVE_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#endif

// The device's memory, and in check builds what every access of every thread is held to: bounds, alignment,
// initialisation, and an order between accesses of different threads.

extern "C" char __executable_start, _end;

namespace optserve::emulator {
namespace {

// The last access to a byte.
struct Cell {
  uint32_t epoch = 0, warp_epoch = 0;
  uint16_t thread = 0;
  uint8_t used : 1 = 0, forbidden : 1 = 0;
  uint8_t atomic = 0;
  uint8_t many_warps = 0, many_lanes = 0;  // readers
};

struct Region {
  char* begin = nullptr;
  size_t bytes = 0;
  std::string name;
  bool shared = false;
  std::vector<Cell> writes, reads;  // made at the first checked access
};

bool checking = false;
const void* accessing_code = nullptr;

std::map<char*, Region>& Regions() {
  static auto* regions = new std::map<char*, Region>;
  return *regions;
}
Region* last_hit = nullptr;

// Of the block that this thread of the host runs.
thread_local std::vector<void*> block_memory;
thread_local std::map<const void*, void*> static_arrays;
thread_local size_t shared_used = 0;
thread_local void* dynamic_shared = nullptr;

// Order between blocks. What a block's threads did before a barrier, and the thread itself before its atomic, is there
// for another block that fences after an atomic on the same word, if this one fenced before its own.
struct Moment {
  uint32_t epoch = 0;   // everything of earlier epochs,
  uint16_t thread = 0;  // and of this epoch what this thread did
};
thread_local std::map<const void*, Moment> released;  // by word
thread_local Moment read_released, acquired;          // before and after the running block's fence
thread_local bool fenced = false;

// "file:line" of the access being checked.
std::string SourceLine() {
  if (accessing_code == nullptr) return "";
  char program[256] = "";
  if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0) return "";
  const auto offset = static_cast<const char*>(accessing_code) - &__executable_start - 1;
  char command[512];
  std::snprintf(command, sizeof(command), "addr2line -e '%s' %#lx 2>/dev/null", program,
                static_cast<unsigned long>(offset));
  std::string line;
  if (FILE* pipe = popen(command, "r")) {
    char text[512];
    if (std::fgets(text, sizeof(text), pipe) != nullptr) line = text;
    pclose(pipe);
  }
  line = line.substr(line.rfind('/') + 1);
  while (!line.empty() && line.back() == '\n') line.pop_back();
  return " (" + line + ")";
}

[[noreturn]] void FailAccess(const std::string& message) { Fail(message + SourceLine()); }

[[noreturn]] void FailRace(const char* kind, const Region& region, size_t offset, const Cell& other) {
  FailAccess(std::string("race: ") + kind + " " + region.name + " byte " + std::to_string(offset) + " with " +
             (other.epoch < epochs.block ? "another block's thread " : "thread ") + std::to_string(other.thread) +
             ", nothing orders them");
}

void EnsureCells(Region& region) {
  if (!region.writes.empty()) return;
  region.writes.resize(region.bytes);
  region.reads.resize(region.bytes);
}

Region* FindRegion(char* p) {
  if (last_hit != nullptr && p >= last_hit->begin && p < last_hit->begin + last_hit->bytes) return last_hit;
  auto it = Regions().upper_bound(p);
  if (it == Regions().begin()) return nullptr;
  --it;
  if (p >= it->second.begin + it->second.bytes) return nullptr;
  return last_hit = &it->second;
}

[[noreturn]] void FailIllegal(char* p, size_t bytes, bool write) {
  char text[160];
  std::snprintf(text, sizeof(text), "illegal %s of %zu bytes at %p", write ? "write" : "read", bytes,
                static_cast<void*>(p));
  std::string message = text;
  auto it = Regions().upper_bound(p);
  if (it != Regions().begin()) {
    --it;
    const ptrdiff_t past = p - it->second.begin - static_cast<ptrdiff_t>(it->second.bytes);
    if (past < 4096) message += ", " + std::to_string(past) + " bytes after the end of " + it->second.name;
  }
  FailAccess(message);
}

// One byte: may this thread touch it now, given who touched it last?
void CheckByte(Region& region, size_t i, bool write, bool atomic, uint16_t thread, uint32_t warp_epoch) {
  Cell &w = region.writes[i], &r = region.reads[i];
  if (!write && region.shared && !w.used) {
    FailAccess("uninitialised byte " + std::to_string(i) + " of " + region.name + " read");
  }
  if (w.forbidden) {
    FailAccess("forbidden byte " + std::to_string(i) + " of " + region.name + " accessed" +
               (region.shared ? ": a copy to it is under way" : ""));
  }
  const auto is_acquired = [&](const Cell& c) {
    return c.epoch < acquired.epoch ||
           (c.epoch == acquired.epoch && c.thread == acquired.thread && !c.many_warps && !c.many_lanes);
  };
  const auto other_block = [&](const Cell& c) {
    return c.used && c.epoch < epochs.block && c.epoch >= epochs.launch && !is_acquired(c) && !(c.atomic && atomic);
  };
  const auto same_block = [&](const Cell& c) {
    return c.used && c.epoch >= epochs.barrier && !(c.atomic && atomic) &&
           (c.many_warps || c.thread / 32 != thread / 32 ||
            (c.warp_epoch == warp_epoch && (c.thread != thread || c.many_lanes)));
  };
  if (other_block(w) || same_block(w)) FailRace(write ? "write after write on" : "read after write on", region, i, w);
  Cell now;
  now.epoch = epochs.barrier;
  now.warp_epoch = warp_epoch;
  now.thread = thread;
  now.used = 1;
  now.atomic = atomic;
  if (write) {
    if (other_block(r) || same_block(r)) FailRace("write after read on", region, i, r);
    w = now;
    return;
  }
  if (!r.used || r.epoch != epochs.barrier) {
    r = now;
    return;
  }
  if (r.thread / 32 != thread / 32) {
    r.many_warps = 1;
  } else if (r.warp_epoch == warp_epoch) {
    r.many_lanes |= r.thread != thread ? 1 : 0;
  } else {
    r.many_lanes = 0;
  }
  r.thread = thread;
  r.warp_epoch = warp_epoch;
}

void* AllocateShared(size_t bytes, const char* name) {
  shared_used += bytes;
  if (shared_used > config().max_shared) {
    Fail("a block wants " + std::to_string(shared_used) + " bytes of shared memory, the limit is " +
         std::to_string(config().max_shared));
  }
  void* memory = Allocate(bytes, name, true);
  block_memory.push_back(memory);
  return memory;
}

}  // namespace

bool IsCheckBuild() { return checking; }

void* Allocate(size_t bytes, const char* name, bool shared) {
  const std::lock_guard lock(mutex());
  const RuntimeScope scope;
  void* memory = nullptr;
  // Exactly the size under AddressSanitizer, whose red zone then begins at the next byte.
  const size_t slack = OPTSERVE_EMULATOR_ASAN ? 0 : 256;
  if (posix_memalign(&memory, 256, bytes + slack) != 0) return nullptr;
  std::memset(memory, 0xff, bytes);
  Regions()[static_cast<char*>(memory)] = Region{static_cast<char*>(memory), bytes, name, shared, {}, {}};
  last_hit = nullptr;
  return memory;
}

void Free(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard lock(mutex());
  const RuntimeScope scope;
#if OPTSERVE_EMULATOR_ASAN
  ASAN_UNPOISON_MEMORY_REGION(memory, Regions()[static_cast<char*>(memory)].bytes);
#endif
  Regions().erase(static_cast<char*>(memory));
  last_hit = nullptr;
  std::free(memory);
}

void Forbid(const void* memory, size_t bytes, [[maybe_unused]] bool forbidden) {
#if OPTSERVE_EMULATOR_ASAN
  if (forbidden) {
    ASAN_POISON_MEMORY_REGION(memory, bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
  }
#endif
  if (!checking) return;
  const std::lock_guard lock(mutex());
  const RuntimeScope scope;
  char* p = static_cast<char*>(const_cast<void*>(memory));
  Region* region = FindRegion(p);
  if (region == nullptr) return;
  EnsureCells(*region);
  const size_t begin = static_cast<size_t>(p - region->begin);
  for (size_t i = begin; i < begin + bytes; ++i) region->writes[i].forbidden = forbidden;
}

void MarkInFlight(void* at, size_t bytes, bool in_flight) {
  if (checking) Forbid(at, bytes, in_flight);
}

void* DynamicShared() { return dynamic_shared; }

void* StaticShared(const void* key, size_t bytes, const char* name) {
  const RuntimeScope scope;
  void*& memory = static_arrays[key];
  if (memory == nullptr) memory = AllocateShared(bytes, name);
  return memory;
}

void BeginLaunchMemory() { released.clear(); }

void BeginBlockMemory(size_t dynamic_bytes) {
  shared_used = 0;
  static_arrays.clear();
  fenced = false;
  read_released = acquired = {};
  dynamic_shared = dynamic_bytes > 0 ? AllocateShared(dynamic_bytes, "dynamic shared memory") : nullptr;
}

void EndBlockMemory() {
  for (void* memory : block_memory) Free(memory);
  block_memory.clear();
}

void CheckAccess(const void* at, size_t bytes, bool write, bool atomic, bool aligned) {
  if (in_runtime || !checking || current == nullptr) return;
  const RuntimeScope scope;
  char* p = static_cast<char*>(const_cast<void*>(at));
  if (IsFiberMemory(p)) return;
  Region* region = FindRegion(p);
  if (region == nullptr) {
    if (!write && p >= &__executable_start && p < &_end) return;  // constants
    if (!write && p == reinterpret_cast<char*>(&current)) return;
    size_t parameter_bytes = 0;
    const auto* parameters = static_cast<const char*>(KernelParameters(&parameter_bytes));
    if (!write && p >= parameters && p < parameters + parameter_bytes) return;
    FailIllegal(p, bytes, write);
  }
  const auto offset = static_cast<size_t>(p - region->begin);
  if (offset + bytes > region->bytes) {
    FailAccess("out of bounds: " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of " +
               region->name + " (" + std::to_string(region->bytes) + " bytes)");
  }
  if (aligned && (reinterpret_cast<uintptr_t>(p) & (bytes - 1)) != 0) {
    FailAccess("misaligned access of " + std::to_string(bytes) + " bytes to " + region->name);
  }
  EnsureCells(*region);
  for (size_t i = offset; i < offset + bytes; ++i) {
    CheckByte(*region, i, write, atomic, static_cast<uint16_t>(current->index), WarpEpoch(current->warp));
  }
}

void ThreadFence() {
  fenced = true;
  acquired = read_released;
  Yield();
}

void AtomicBegin(const void* at, size_t bytes) {
  CheckAccess(at, bytes, true, true);
  Yield();
  in_runtime = true;
}

void AtomicEnd(const void* at) {
  const auto it = released.find(at);
  if (it != released.end() && it->second.epoch > read_released.epoch) read_released = it->second;
  if (fenced) released[at] = {epochs.barrier, static_cast<uint16_t>(current->index)};
  in_runtime = false;
}

}  // namespace optserve::emulator

#if defined(OPTSERVE_EMULATOR_CHECK)

// ---------------------------------------------------------------- compiler hooks

// Kernels of a check build are compiled with -fsanitize=thread and some groups of UBSan, but linked with neither
// library: these are the calls that the compiler then makes.
namespace optserve::emulator {
namespace {

struct UndefinedData {  // what every UBSan handler's data begins with
  const char* file;
  uint32_t line, column;
};

void Undefined(const void* data, const char* what) {
  const auto* d = static_cast<const UndefinedData*>(data);
  const std::string file = d->file;
  const std::string message = std::string(what) + " at " + file.substr(file.rfind('/') + 1) + ":" +
                              std::to_string(d->line) + ":" + std::to_string(d->column);
  if (current != nullptr) Fail(message);
  std::fprintf(stderr, "host code: %s\n", message.c_str());
  std::abort();
}

}  // namespace
}  // namespace optserve::emulator

#define OPTSERVE_HOOK(Name, bytes, write, aligned)                                                         \
  void Name(void* p) {                                                                                     \
    if (!optserve::emulator::in_runtime) optserve::emulator::accessing_code = __builtin_return_address(0); \
    optserve::emulator::CheckAccess(p, bytes, write, false, aligned);                                      \
  }
#define OPTSERVE_HOOKS(n)                                  \
  OPTSERVE_HOOK(__tsan_read##n, n, false, true)            \
  OPTSERVE_HOOK(__tsan_write##n, n, true, true)            \
  OPTSERVE_HOOK(__tsan_volatile_read##n, n, false, false)  \
  OPTSERVE_HOOK(__tsan_volatile_write##n, n, true, false)  \
  OPTSERVE_HOOK(__tsan_unaligned_read##n, n, false, false) \
  OPTSERVE_HOOK(__tsan_unaligned_write##n, n, true, false)

extern "C" {
void __tsan_init() { optserve::emulator::checking = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
OPTSERVE_HOOKS(1)
OPTSERVE_HOOKS(2)
OPTSERVE_HOOKS(4)
OPTSERVE_HOOKS(8)
OPTSERVE_HOOKS(16)
void __tsan_read_range(void* p, unsigned long n) { optserve::emulator::CheckAccess(p, n, false); }
void __tsan_write_range(void* p, unsigned long n) { optserve::emulator::CheckAccess(p, n, true); }
// Words that ranks wait for, which gpu.h has checked already; and counters of the test framework, in code that is
// compiled together with kernels.
int __tsan_atomic32_load(const volatile int* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
void __tsan_atomic32_store(volatile int* at, int value, int) { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); }
int __tsan_atomic32_fetch_add(volatile int* at, int value, int) {
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_fetch_sub(volatile int* at, int value, int) {
  return __atomic_fetch_sub(at, value, __ATOMIC_SEQ_CST);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void* __tsan_memcpy(void* to, const void* from, unsigned long n) {
  optserve::emulator::CheckAccess(from, n, false);
  optserve::emulator::CheckAccess(to, n, true);
  return std::memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, unsigned long n) {
  optserve::emulator::CheckAccess(from, n, false);
  optserve::emulator::CheckAccess(to, n, true);
  return std::memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, unsigned long n) {
  optserve::emulator::CheckAccess(to, n, true);
  return std::memset(to, value, n);
}

#define OPTSERVE_UNDEFINED(Name, what) \
  void Name(void* data, void*) { optserve::emulator::Undefined(data, what); }
OPTSERVE_UNDEFINED(__ubsan_handle_type_mismatch_v1_abort, "misaligned or null pointer")
OPTSERVE_UNDEFINED(__ubsan_handle_out_of_bounds_abort, "array index out of bounds")
OPTSERVE_UNDEFINED(__ubsan_handle_shift_out_of_bounds_abort, "shift out of range")
OPTSERVE_UNDEFINED(__ubsan_handle_add_overflow_abort, "integer overflow")
OPTSERVE_UNDEFINED(__ubsan_handle_sub_overflow_abort, "integer overflow")
OPTSERVE_UNDEFINED(__ubsan_handle_mul_overflow_abort, "integer overflow")
OPTSERVE_UNDEFINED(__ubsan_handle_negate_overflow_abort, "integer overflow")
OPTSERVE_UNDEFINED(__ubsan_handle_divrem_overflow_abort, "division by zero or overflow")
}

#endif  // OPTSERVE_EMULATOR_CHECK
