#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/util/log.h"

namespace optserve {

class Metrics;

// What one request took. No text of it, but `user`, which is the client's own name for whoever asks.
struct UsageRecord {
  std::string request_id;  // the transport's; empty: it has none, and `id` stands for it
  std::string id;          // "cmpl-..."
  std::string key_id;      // empty: anonymous
  std::string user;
  std::string model;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  double engine_seconds = 0.0;
  std::string_view finish;  // stop, length, cancelled, deadline, error
};

// A file with a line of JSON for each request, for accounts:
//
//   {"time":"2026-01-31T12:00:00.123Z","request_id":"...","id":"cmpl-...","key":"key-5f1c09ab","user":"ana",
//    "model":"opt-125m","prompt_tokens":9,"completion_tokens":16,"cached_tokens":0,"engine_seconds":0.012345,
//    "finish":"length"}                                                              (all on one line)
//
// Lines are only ever appended, whole. A line that an earlier run could not end is cut off when the file is opened.
// They are written at once, by a thread of the ledger's, and synced to the disk once a second: a killed process loses
// the lines of its last milliseconds, a power failure those of its last second. While the file cannot be written, lines
// wait and are tried again each second; beyond max_waiting_bytes they are lost, and counted. Nobody waits for a disk.
//
// Any thread may append.
class UsageLedger {
 public:
  struct Options {
    std::string file;
    size_t max_waiting_bytes = 16 * 1024 * 1024;
    std::chrono::milliseconds retry_every{1000};
    std::chrono::milliseconds sync_every{1000};
    const Log* log = nullptr;    // a line when writing fails, and one when it works again; outlives the ledger
    Metrics* metrics = nullptr;  // likewise
  };

  // FailedPrecondition: the file cannot be opened for appending. It is made (mode 0640) if there is none.
  static absl::StatusOr<std::unique_ptr<UsageLedger>> Open(Options options);

  // Writes and syncs what waits, once.
  ~UsageLedger();

  void Append(const UsageRecord& record);

  // Opens the file by its name again, after somebody has moved it away. An error leaves the one that is open.
  absl::Status Reopen();

 private:
  explicit UsageLedger(Options options) : options_(std::move(options)) {}

  absl::StatusOr<int> OpenFile() const;
  void Run();
  void WriteBatch();
  void Sync();
  void NoteFailure(int error);
  void NoteSuccess();

  const Options options_;

  std::mutex mu_;
  std::condition_variable changed_;
  std::string waiting_ ABSL_GUARDED_BY(mu_);
  size_t batch_bytes_ ABSL_GUARDED_BY(mu_) = 0;  // of batch_, for the limit
  uint64_t num_lost_ ABSL_GUARDED_BY(mu_) = 0;   // since writing failed
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::mutex file_mu_;  // before mu_
  int fd_ ABSL_GUARDED_BY(file_mu_) = -1;
  std::string batch_ ABSL_GUARDED_BY(file_mu_);       // whole lines that are being written
  size_t num_written_ ABSL_GUARDED_BY(file_mu_) = 0;  // of the first of them
  bool is_failing_ ABSL_GUARDED_BY(file_mu_) = false;
  bool is_unsynced_ ABSL_GUARDED_BY(file_mu_) = false;

  std::thread thread_;
};

}  // namespace optserve
