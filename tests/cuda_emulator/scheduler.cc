#include "tests/cuda_emulator/scheduler.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#if OPTSERVE_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Fibers, barriers, warp operations, launches.

namespace optserve::emulator {

constinit thread_local Thread* current = nullptr;
constinit thread_local bool in_runtime = true;
Epochs epochs;

namespace {

constexpr size_t kStackBytes = OPTSERVE_EMULATOR_ASAN ? 256 << 10 : 64 << 10;
constexpr size_t kMaxThreads = 1024;

enum class State : uint8_t { kReady, kInWarpOperation, kAtBarrier, kDone };

struct Fiber : CopyingThread {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  State state = State::kReady;
  Place where;
  int result = 0;  // of a barrier
};

struct Pending {
  const char* what;
  unsigned mask, arrived;
  void* arguments[32];
  WarpOperation operation;
  bool orders_memory;
  Place place;
};
struct Warp {
  std::vector<Pending> pending;
  unsigned all = 0, exited = 0;
  uint32_t epoch = 0;
};
struct Barrier {
  int arrived = 0, value = 0;
  bool open = false;
  BarrierKind kind = BarrierKind::kSync;
  std::vector<Fiber*> waiting;
  Place place;
};

// The launch under way on this thread of the host.
thread_local std::vector<Fiber> fibers;
thread_local std::vector<Warp> warps;
thread_local Barrier block_barrier;
thread_local std::vector<Fiber*> ready;
thread_local size_t ready_begin;
thread_local int threads_alive;
thread_local void* main_stack_pointer;
thread_local std::string error;
thread_local void (*kernel_body)(void*);
alignas(64) thread_local char parameters[4096];
thread_local uint64_t random_state = 1;

// Memory for the stacks of a block's threads; pages are taken as they are used.
class Stacks {
 public:
  Stacks() = default;
  ~Stacks() {
    if (begin_ != nullptr) munmap(begin_, kMaxThreads * kStackBytes);
  }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  char* begin() {
    if (begin_ != nullptr) return begin_;
    void* memory = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error("no memory for stacks");
    return begin_ = static_cast<char*>(memory);
  }
  bool Contains(const char* p) const {
    return begin_ != nullptr && p >= begin_ && p < begin_ + kMaxThreads * kStackBytes;
  }

 private:
  char* begin_ = nullptr;
};
thread_local Stacks stacks;

std::set<std::string>& BarriersSeen() {
  static auto* seen = new std::set<std::string>;
  return *seen;
}

Fiber* Self() { return static_cast<Fiber*>(current); }
bool SamePlace(const Place& a, const Place& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}
std::string Text(const Dim3& d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

// Saves this stack's callee-saved registers and its pointer, and goes on where `load` left off. It ends with ret, not
// pop and jmp, so that the processor's return predictor stays in step: twice as fast.
extern "C" void OptserveEmulatorSwitch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(.text
.globl OptserveEmulatorSwitch
.type OptserveEmulatorSwitch,@function
OptserveEmulatorSwitch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size OptserveEmulatorSwitch,.-OptserveEmulatorSwitch
)");
#else
#error "the emulator switches stacks in x86-64 assembly"
#endif

#if OPTSERVE_EMULATOR_ASAN
thread_local const void* main_stack_bottom;
thread_local size_t main_stack_bytes;
#endif

// To the fiber, or with nullptr back to RunGrid.
void SwitchTo(void** save, Fiber* to, [[maybe_unused]] bool dying) {
  current = to;
#if OPTSERVE_EMULATOR_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(dying ? nullptr : &fake_stack, to != nullptr ? to->stack : main_stack_bottom,
                                 to != nullptr ? kStackBytes : main_stack_bytes);
#endif
  OptserveEmulatorSwitch(save, to != nullptr ? to->stack_pointer : main_stack_pointer);
#if OPTSERVE_EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

Fiber* PickReady() {
  if (ready_begin == ready.size()) return nullptr;
  const uint64_t seed = config().seed;
  if (seed == 0) return ready[ready_begin++];
  if (seed > 1) std::swap(ready[ready_begin + Random() % (ready.size() - ready_begin)], ready.back());
  Fiber* fiber = ready.back();
  ready.pop_back();
  return fiber;
}

std::string DeadlockText() {
  std::map<std::string, int> waiting;
  for (const Fiber& fiber : fibers) {
    if (fiber.state == State::kAtBarrier) waiting["barrier " + Where(fiber.where)]++;
    if (fiber.state == State::kInWarpOperation) waiting["warp operation " + Where(fiber.where)]++;
  }
  std::string text = "deadlock:";
  for (const auto& [place, count] : waiting) text += " " + std::to_string(count) + " threads wait at " + place + ";";
  return text + " " + std::to_string(static_cast<int>(fibers.size()) - threads_alive) + " have exited";
}

void Suspend(State state, const Place& place) {
  Fiber* me = Self();
  me->state = state;
  me->where = place;
  Fiber* to = PickReady();
  if (to == nullptr) {
    if (state == State::kReady) return;
    Fail(DeadlockText());
  }
  if (to != me) SwitchTo(&me->stack_pointer, to, false);
  me->state = State::kReady;
}

void Wake(Fiber* fiber) {
  fiber->state = State::kReady;
  ready.push_back(fiber);
}

void OpenBarrier(Barrier& barrier) {
  if (IsCheckBuild()) ++epochs.barrier;
  for (Fiber* fiber : barrier.waiting) {
    fiber->result = barrier.value;
    Wake(fiber);
  }
  barrier = {};
}

// All lanes are there: performs the operation for them.
void Perform(Warp& warp, size_t index) {
  Pending pending = warp.pending[index];
  warp.pending.erase(warp.pending.begin() + static_cast<int64_t>(index));
  pending.operation(pending.arguments, pending.arrived);
  if (pending.orders_memory) ++warp.epoch;
  Fiber* first = &fibers[static_cast<size_t>(&warp - warps.data()) * 32];
  for (int lane = 0; lane < 32; ++lane) {
    if ((pending.arrived >> lane & 1) != 0 && first + lane != current) Wake(first + lane);
  }
}

void ExitThread(Fiber* me) {
  Warp& warp = warps[me->warp];
  warp.exited |= 1u << me->lane;
  --threads_alive;
  me->state = State::kDone;
  for (const Pending& pending : warp.pending) {
    if ((pending.mask >> me->lane & 1) != 0) {
      Fail("lane exits while others wait for it in " + std::string(pending.what) + " at " + Where(pending.place));
    }
  }
  if (block_barrier.arrived > 0 && block_barrier.arrived == threads_alive) OpenBarrier(block_barrier);
}

void FiberMain() {
  Fiber* me = Self();
#if OPTSERVE_EMULATOR_ASAN
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (!IsFiberMemory(bottom)) {
    main_stack_bottom = bottom;
    main_stack_bytes = bytes;
  }
#endif
  in_runtime = false;
  kernel_body(parameters);
  in_runtime = true;
  AsyncCopyWait(0);
  ExitThread(me);
  Fiber* to = PickReady();
  if (to == nullptr && threads_alive > 0) error = DeadlockText();
  SwitchTo(&me->stack_pointer, to, true);
  __builtin_trap();
}

void PrepareStack(Fiber& fiber) {
#if OPTSERVE_EMULATOR_ASAN
  __asan_unpoison_memory_region(fiber.stack, kStackBytes);
#endif
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 2;
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(FiberMain);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
}

void RunBlock(Dim3 grid, Dim3 block, uint32_t number) {
  const size_t num_threads = fibers.size();
  warps.assign((num_threads + 31) / 32, {});
  block_barrier = {};
  ready.clear();
  ready_begin = 0;
  threads_alive = static_cast<int>(num_threads);
  for (size_t t = 0; t < num_threads; ++t) {
    Fiber& fiber = fibers[t];
    const auto i = static_cast<unsigned>(t);
    fiber.thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    fiber.block = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    fiber.block_dim = block;
    fiber.grid_dim = grid;
    fiber.index = static_cast<int>(t);
    fiber.lane = static_cast<int>(t % 32);
    fiber.warp = static_cast<int>(t / 32);
    fiber.stack = stacks.begin() + t * kStackBytes;
    fiber.groups.clear();
    fiber.open.clear();
    warps[t / 32].all |= 1u << (t % 32);
    PrepareStack(fiber);
    Wake(&fiber);
  }
  SwitchTo(&main_stack_pointer, PickReady(), false);
  current = nullptr;
}

void PrintBarriers() {
  for (const std::string& place : BarriersSeen()) std::printf("BARRIER %s\n", place.c_str());
}

}  // namespace

Config& config() {
  static Config config = [] {
    Config c;
    const auto number = [](const char* name, auto& value) {
      if (const char* text = std::getenv(name)) value = std::strtoull(text, nullptr, 0);
    };
    number("OPTSERVE_EMULATOR_SEED", c.seed);
    number("OPTSERVE_EMULATOR_ASYNC_COPY", c.async_copy);
    number("OPTSERVE_EMULATOR_LIST", c.list);
    if (const char* text = std::getenv("OPTSERVE_EMULATOR_DROP")) c.drop = text;
    if (c.list) std::atexit(PrintBarriers);
    return c;
  }();
  return config;
}

std::recursive_mutex& mutex() {
  static auto* mutex = new std::recursive_mutex;
  return *mutex;
}

std::string Where(const Place& place) {
  const std::string file = place.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line());
}

uint64_t Random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

uint32_t WarpEpoch(int warp) { return warps[warp].epoch; }

bool IsFiberMemory(const void* at) {
  const auto* p = static_cast<const char*>(at);
  if (stacks.Contains(p)) return true;
  const auto* first = reinterpret_cast<const char*>(fibers.data());
  return p >= first && p < first + fibers.size() * sizeof(Fiber);
}

const void* KernelParameters(size_t* bytes) {
  *bytes = sizeof(parameters);
  return parameters;
}

// In a kernel: abandons all fibers. Nothing is unwound, because the compiler's hooks may not throw.
void Fail(const std::string& message) {
  if (current == nullptr) throw Error(message);
  in_runtime = true;
  error = "block " + Text(current->block) + " thread " + Text(current->thread) + ": " + message;
  SwitchTo(&Self()->stack_pointer, nullptr, true);
  __builtin_unreachable();
}

void Yield() {
  if (current == nullptr || config().seed == 0) return;
  const RuntimeScope scope;
  Fiber* me = Self();
  ready.push_back(me);
  Suspend(State::kReady, me->where);
}

// Behind all others, whatever the order.
void PollAgain() {
  const RuntimeScope scope;
  Fiber* me = Self();
  if (ready_begin > 4096) {  // in order, those that have run stay in front
    ready.erase(ready.begin(), ready.begin() + static_cast<int64_t>(ready_begin));
    ready_begin = 0;
  }
  ready.insert(config().seed == 1 ? ready.begin() : ready.end(), me);
  WaitForWords(ready.size() - ready_begin);
  Suspend(State::kReady, me->where);
}

int BlockBarrier(int predicate, BarrierKind kind, Place place) {
  const RuntimeScope scope;
  Fiber* me = Self();
  const std::string where = Where(place);
  if (config().list) BarriersSeen().insert(where);
  if (config().drop == where) return predicate;
  if (warps[me->warp].exited != 0) Fail("barrier at " + where + " after other lanes of the warp have exited");
  Barrier& barrier = block_barrier;
  if (!barrier.open) {
    barrier.open = true;
    barrier.kind = kind;
    barrier.place = place;
    barrier.value = kind == BarrierKind::kAnd ? 1 : 0;
  } else if (!SamePlace(barrier.place, place)) {
    Fail("divergent barrier: at " + where + " while others wait at " + Where(barrier.place));
  }
  const int bit = predicate != 0 ? 1 : 0;
  if (kind == BarrierKind::kAnd) barrier.value &= bit;
  if (kind == BarrierKind::kOr) barrier.value |= bit;
  if (kind == BarrierKind::kCount) barrier.value += bit;
  if (++barrier.arrived == threads_alive) {
    const int value = barrier.value;
    OpenBarrier(barrier);
    Yield();
    return value;
  }
  barrier.waiting.push_back(me);
  Suspend(State::kAtBarrier, place);
  return me->result;
}

void Collective(const char* what, unsigned mask, void* argument, WarpOperation operation, bool orders_memory,
                Place place) {
  const RuntimeScope scope;
  Fiber* me = Self();
  Warp& warp = warps[me->warp];
  const unsigned bit = 1u << me->lane;
  if ((mask & bit) == 0) Fail(std::string(what) + " at " + Where(place) + ": mask does not name the calling lane");
  if (orders_memory) {
    if (config().list) BarriersSeen().insert(Where(place));
    if (!config().drop.empty() && config().drop == Where(place)) return;
  }
  if ((mask & warp.exited) != 0) {
    Fail(std::string(what) + " at " + Where(place) + " names lanes that have exited");
  }
  size_t i = 0;
  while (i < warp.pending.size() && (warp.pending[i].mask & mask) == 0) ++i;
  if (i == warp.pending.size()) {
    warp.pending.push_back({what, mask, 0, {}, operation, orders_memory, place});
  } else if (const Pending& other = warp.pending[i];
             other.mask != mask || std::strcmp(other.what, what) != 0 || !SamePlace(other.place, place)) {
    Fail(std::string("divergent warp: ") + what + " at " + Where(place) + " while other lanes wait in " + other.what +
         " at " + Where(other.place));
  }
  Pending& pending = warp.pending[i];
  pending.arrived |= bit;
  pending.arguments[me->lane] = argument;
  if (pending.arrived == (mask & warp.all)) return Perform(warp, i);
  Suspend(State::kInWarpOperation, place);
}

// ---------------------------------------------------------------- launch

Totals& totals() {
  static Totals all;
  return all;
}

void Queue(void* stream, const void* kernel, std::function<void()> run) {
  if (stream == nullptr) return run();
  Stream& queue = *static_cast<Stream*>(stream);
  if (queue.captured == nullptr) {
    ++totals().launches;
    if (totals().log != nullptr) totals().log->push_back(kernel);
  }
  queue.Take({kernel, std::move(run)});
}

void RunGrid(Dim3 grid, Dim3 block, size_t shared_bytes, void (*body)(void*), void* closure, size_t closure_bytes) {
  std::unique_lock lock(mutex(), std::defer_lock);
  if (IsCheckBuild()) lock.lock();  // one record of accesses for all
  const size_t num_threads = size_t{block.x} * block.y * block.z;
  const size_t num_blocks = size_t{grid.x} * grid.y * grid.z;
  if (closure_bytes > sizeof(parameters)) Fail("kernel parameters take more than 4 KiB");
  if (num_threads == 0 || num_threads > kMaxThreads || block.z > 64) {
    Fail("a block of " + std::to_string(num_threads) + " threads");
  }
  if (num_blocks == 0 || grid.y > 65535 || grid.z > 65535) Fail("a grid of " + Text(grid));
  fibers.resize(num_threads);
  kernel_body = body;
  std::memcpy(parameters, closure, closure_bytes);
  const uint64_t seed = config().seed;
  random_state = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  for (int i = 0; i < 8; ++i) Random();
  if (IsCheckBuild()) epochs.launch = ++epochs.barrier;
  error.clear();
  BeginLaunchMemory();

  std::vector<uint32_t> order(num_blocks);
  for (size_t i = 0; i < num_blocks; ++i) order[i] = static_cast<uint32_t>(seed == 1 ? num_blocks - 1 - i : i);
  if (seed > 1) {
    for (size_t i = num_blocks; i > 1; --i) std::swap(order[i - 1], order[Random() % i]);
  }
  for (const uint32_t number : order) {
    if (IsCheckBuild()) epochs.block = ++epochs.barrier;
    BeginBlockMemory(shared_bytes);
    RunBlock(grid, block, number);
    EndBlockMemory();
    if (!error.empty()) throw Error(error);
  }
}

}  // namespace optserve::emulator
