#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace optserve {

// Which ranks a process waits for just now, in memory that a second process sees too: who was waited for can still be
// read there when the first was killed and had no time to say so.
//
// Threads  Any, of both processes.
class AwaitedRanks {
 public:
  static constexpr int kMaxRanks = 1024;

  static absl::StatusOr<std::unique_ptr<AwaitedRanks>> Make();  // nobody is waited for
  // The memory whose fd() another process has handed over; takes `fd`.
  static absl::StatusOr<std::unique_ptr<AwaitedRanks>> Open(int fd);
  ~AwaitedRanks();
  AwaitedRanks(const AwaitedRanks&) = delete;
  AwaitedRanks& operator=(const AwaitedRanks&) = delete;

  int fd() const { return fd_; }

  // Before the rank is first waited for. Of a long name the beginning is kept. `is_elsewhere`: on another machine.
  void SetName(int rank, std::string_view name, bool is_elsewhere);
  void Set(int rank, bool is_awaited);
  bool IsAwaited(int rank) const;
  std::string Names() const;      // "rank 1 on host b, rank 3 on host c"; empty: nobody is waited for
  std::string Elsewhere() const;  // the same of the ranks on other machines

 private:
  struct Entry;
  template <typename Filter>
  std::string NamesOf(const Filter& filter) const;
  AwaitedRanks(int fd, Entry* entries) : fd_(fd), entries_(entries) {}

  const int fd_;
  Entry* const entries_;  // [kMaxRanks]
};

}  // namespace optserve
