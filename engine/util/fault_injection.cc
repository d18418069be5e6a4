#include "engine/util/fault_injection.h"

#ifdef OPTSERVE_FAULTS

#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <thread>

#include "engine/util/status.h"

namespace optserve {
namespace {

using Kind = InjectedFault::Kind;

FaultScope& ThisScope() {
  static FaultScope scope;
  return scope;
}

[[noreturn]] void Refuse(const std::string& what) {
  std::fprintf(stderr, "OPTSERVE_FAULTS: cannot read '%s'\n", what.c_str());
  std::abort();  // a test that orders nothing would pass for nothing
}

InjectedFault ParseFault(const std::string& text) {
  static const std::map<std::string, Kind> kinds = {
      {"kill", Kind::kKill}, {"segv", Kind::kSegv},     {"abort", Kind::kAbort},
      {"hang", Kind::kHang}, {"slow", Kind::kSlow},     {"leak", Kind::kLeak},
      {"nan", Kind::kNan},   {"device", Kind::kDevice}, {"alloc", Kind::kAlloc}};
  std::istringstream words(text);
  std::string word;
  words >> word;
  const auto kind = kinds.find(word);
  if (kind == kinds.end()) Refuse(text);
  InjectedFault fault = {.kind = kind->second};
  bool says_when = false;
  while (words >> word) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) Refuse(text);
    const std::string key = word.substr(0, equals);
    char* end = nullptr;
    const int64_t value = std::strtoll(word.c_str() + equals + 1, &end, 10);
    if (*end != '\0') Refuse(text);
    says_when = says_when || key == "step" || key == "from";
    if (key == "step") {
      fault.first_step = fault.last_step = static_cast<uint64_t>(value);
    } else if (key == "from") {
      fault.first_step = static_cast<uint64_t>(value);
      fault.last_step = std::numeric_limits<uint64_t>::max();
    } else if (key == "rank") {
      fault.rank = static_cast<int32_t>(value);
    } else if (key == "replica") {
      fault.replica = static_cast<int32_t>(value);
    } else if (key == "generation") {
      fault.generation = static_cast<int32_t>(value);
    } else if (key == "row") {
      fault.row = static_cast<int32_t>(value);
    } else if (key == "ms") {
      fault.ms = static_cast<int32_t>(value);
    } else {
      Refuse(text);
    }
  }
  if (!says_when) Refuse(text);
  return fault;
}

std::vector<InjectedFault> ParseFaults() {
  std::vector<InjectedFault> faults;
  const char* text = std::getenv("OPTSERVE_FAULTS");  // NOLINT: nobody sets it meanwhile
  std::istringstream parts(text == nullptr ? "" : text);
  for (std::string part; std::getline(parts, part, ';');) faults.push_back(ParseFault(part));
  return faults;
}

}  // namespace

void SetFaultScope(int32_t replica, int32_t generation) {
  ThisScope() = {.replica = replica, .generation = generation};
}

FaultScope CurrentFaultScope() { return ThisScope(); }

std::vector<InjectedFault> FaultsDue(uint64_t step, int32_t rank) {
  static const std::vector<InjectedFault> faults = ParseFaults();
  std::vector<InjectedFault> due;
  for (const InjectedFault& fault : faults) {
    if (step < fault.first_step || step > fault.last_step || rank != fault.rank) continue;
    if (fault.replica >= 0 && fault.replica != ThisScope().replica) continue;
    if (fault.generation >= 0 && fault.generation != ThisScope().generation) continue;
    due.push_back(fault);
  }
  return due;
}

absl::Status CommitFault(const InjectedFault& fault) {
  switch (fault.kind) {
    case Kind::kKill:
      raise(SIGKILL);
      break;
    case Kind::kSegv:
      raise(SIGSEGV);
      break;
    case Kind::kAbort:
      std::abort();
    case Kind::kHang:
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    case Kind::kSlow:
      std::this_thread::sleep_for(std::chrono::milliseconds(fault.ms));
      break;
    case Kind::kLeak: {
      static std::deque<std::string> lost;
      lost.emplace_back(static_cast<size_t>(fault.ms) * 1024, 'x');
      break;
    }
    case Kind::kDevice:
      return Internal("device error 700 (an illegal memory access was encountered)");
    case Kind::kAlloc:
      return ResourceExhausted("no memory for the step's inputs");
    case Kind::kNan:
      break;
  }
  return absl::OkStatus();
}

}  // namespace optserve

#endif
