#include "engine/util/awaited_ranks.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "engine/util/status.h"

namespace optserve {

// Zeros are an entry without a name that is not waited for.
struct AwaitedRanks::Entry {
  std::atomic<bool> is_awaited;
  std::atomic<bool> is_elsewhere;
  std::array<char, 126> name;  // ends with a zero
};

absl::StatusOr<std::unique_ptr<AwaitedRanks>> AwaitedRanks::Make() {
  const int fd = memfd_create("optserve-awaited-ranks", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, kMaxRanks * sizeof(Entry)) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return Internal("cannot make memory to share: {}", strerror(error));  // NOLINT: glibc's is thread-safe
  }
  return Open(fd);
}

absl::StatusOr<std::unique_ptr<AwaitedRanks>> AwaitedRanks::Open(int fd) {
  static_assert(std::atomic<bool>::is_always_lock_free);
  void* const memory = mmap(nullptr, kMaxRanks * sizeof(Entry), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    close(fd);
    return Internal("cannot map shared memory: {}", strerror(error));  // NOLINT
  }
  return std::unique_ptr<AwaitedRanks>(new AwaitedRanks(fd, static_cast<Entry*>(memory)));
}

AwaitedRanks::~AwaitedRanks() {
  munmap(entries_, kMaxRanks * sizeof(Entry));
  close(fd_);
}

void AwaitedRanks::SetName(int rank, std::string_view name, bool is_elsewhere) {
  std::array<char, 126>& to = entries_[rank].name;
  to = {};
  std::copy_n(name.begin(), std::min(name.size(), to.size() - 1), to.begin());
  entries_[rank].is_elsewhere.store(is_elsewhere, std::memory_order_release);
}

void AwaitedRanks::Set(int rank, bool is_awaited) {
  entries_[rank].is_awaited.store(is_awaited, std::memory_order_release);
}

bool AwaitedRanks::IsAwaited(int rank) const { return entries_[rank].is_awaited.load(std::memory_order_acquire); }

std::string AwaitedRanks::Names() const {
  return NamesOf([](const Entry& entry) { return entry.is_awaited.load(std::memory_order_acquire); });
}

std::string AwaitedRanks::Elsewhere() const {
  return NamesOf([](const Entry& entry) { return entry.is_elsewhere.load(std::memory_order_acquire); });
}

template <typename Filter>
std::string AwaitedRanks::NamesOf(const Filter& filter) const {
  std::string names;
  for (int rank = 0; rank < kMaxRanks; ++rank) {
    if (!filter(entries_[rank])) continue;
    const std::array<char, 126>& name = entries_[rank].name;
    names += names.empty() ? "" : ", ";
    names.append(name.data(), strnlen(name.data(), name.size()));
  }
  return names;
}

}  // namespace optserve
