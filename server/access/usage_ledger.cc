#include "server/access/usage_ledger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "engine/util/metrics.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/api/json_writer.h"

namespace optserve {
namespace {

constexpr mode_t kFileMode = 0640;

std::string Now() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  std::tm utc = {};
  gmtime_r(&now.tv_sec, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:03}Z", text, now.tv_nsec / 1'000'000);
}

void AppendMember(std::string& json, std::string_view name, std::string_view text) {
  json += fmt::format(",\"{}\":", name);
  AppendJsonString(json, text);
}

std::string Line(const UsageRecord& record) {
  std::string json = fmt::format(R"({{"time":"{}")", Now());
  AppendMember(json, "request_id", record.request_id.empty() ? record.id : record.request_id);
  AppendMember(json, "id", record.id);
  AppendMember(json, "key", record.key_id);
  AppendMember(json, "user", record.user);
  AppendMember(json, "model", record.model);
  json += fmt::format(R"(,"prompt_tokens":{},"completion_tokens":{},"cached_tokens":{},"engine_seconds":{:.6f})",
                      record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.engine_seconds);
  AppendMember(json, "finish", record.finish);
  return json + "}\n";
}

// How long the file is up to the end of its last whole line.
absl::StatusOr<off_t> WholeLines(int fd, off_t size) {
  char buffer[4096];
  while (size > 0) {
    const off_t begin = std::max<off_t>(size - static_cast<off_t>(sizeof(buffer)), 0);
    const ssize_t count = ::pread(fd, buffer, static_cast<size_t>(size - begin), begin);
    if (count != size - begin) return absl::ErrnoToStatus(count < 0 ? errno : EIO, "it cannot be read");
    for (off_t i = count; i > 0; --i) {
      if (buffer[i - 1] == '\n') return begin + i;
    }
    size = begin;
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<UsageLedger>> UsageLedger::Open(Options options) {
  std::unique_ptr<UsageLedger> ledger(new UsageLedger(std::move(options)));
  OPTSERVE_ASSIGN_OR_RETURN(ledger->fd_, ledger->OpenFile());
  ledger->thread_ = std::thread([ledger = ledger.get()] { ledger->Run(); });
  return ledger;
}

absl::StatusOr<int> UsageLedger::OpenFile() const {
  const auto error = [this](int number) {
    return FailedPrecondition("usage log {}: {}", options_.file, std::strerror(number));
  };
  // Not blocking, for a FIFO that nobody reads.
  const int fd = ::open(options_.file.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, kFileMode);
  if (fd < 0) return error(errno);
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return fd;
  absl::Status repaired;
  if (const absl::StatusOr<off_t> whole = WholeLines(fd, info.st_size); !whole.ok()) {
    repaired = whole.status();
  } else if (*whole < info.st_size) {
    if (::ftruncate(fd, *whole) != 0) repaired = absl::ErrnoToStatus(errno, "its last line is not whole");
    if (repaired.ok() && options_.log != nullptr) {
      options_.log->Warning("usage_log_repaired", {{"file", options_.file}, {"bytes_cut", info.st_size - *whole}});
    }
  }
  if (repaired.ok()) return fd;
  ::close(fd);
  return FailedPrecondition("usage log {}: {}", options_.file, std::string(repaired.message()));
}

UsageLedger::~UsageLedger() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mu_);
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  if (fd_ >= 0) ::close(fd_);
}

void UsageLedger::Append(const UsageRecord& record) {
  std::string line = Line(record);
  {
    const std::lock_guard lock(mu_);
    if (waiting_.size() + batch_bytes_ + line.size() > options_.max_waiting_bytes) {
      ++num_lost_;
      if (options_.metrics != nullptr) options_.metrics->CountUsageRecordLost();
      return;
    }
    waiting_ += line;
  }
  changed_.notify_one();
}

absl::Status UsageLedger::Reopen() {
  OPTSERVE_ASSIGN_OR_RETURN(const int next, OpenFile());
  const std::lock_guard lock(file_mu_);
  if (is_unsynced_) Sync();
  ::close(std::exchange(fd_, next));
  num_written_ = 0;  // the line that the old file has a part of is whole in the new one
  return absl::OkStatus();
}

void UsageLedger::Run() {
  pthread_setname_np(pthread_self(), "usage-log");
  auto last_sync = std::chrono::steady_clock::now();
  for (bool stop = false; !stop;) {
    {
      const std::lock_guard file_lock(file_mu_);
      std::unique_lock lock(mu_);
      batch_ += std::exchange(waiting_, {});
      batch_bytes_ = batch_.size();
      stop = stopping_;
      lock.unlock();
      WriteBatch();
      const auto now = std::chrono::steady_clock::now();
      if (is_unsynced_ && (stop || now - last_sync >= options_.sync_every)) {
        Sync();
        last_sync = now;
      }
      lock.lock();
      batch_bytes_ = batch_.size();
    }
    bool has_to_return = false;
    {
      const std::lock_guard file_lock(file_mu_);
      has_to_return = is_failing_ || is_unsynced_;
    }
    std::unique_lock lock(mu_);
    const auto is_woken = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !waiting_.empty(); };
    if (has_to_return) {
      changed_.wait_for(lock, std::min(options_.retry_every, options_.sync_every), is_woken);
    } else {
      changed_.wait(lock, is_woken);
    }
  }
}

void UsageLedger::WriteBatch() {
  while (num_written_ < batch_.size()) {
    const ssize_t count = ::write(fd_, batch_.data() + num_written_, batch_.size() - num_written_);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return NoteFailure(count < 0 ? errno : EIO);
    is_unsynced_ = true;
    const size_t end = num_written_ + static_cast<size_t>(count);
    const size_t last_line_end = batch_.rfind('\n', end - 1);
    const size_t num_whole = last_line_end == std::string::npos ? 0 : last_line_end + 1;
    batch_.erase(0, num_whole);
    num_written_ = end - num_whole;
    if (batch_.empty()) NoteSuccess();
  }
}

void UsageLedger::Sync() {
  is_unsynced_ = false;
  // What is no file of a disk cannot be synced, and need not be.
  if (::fdatasync(fd_) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) NoteFailure(errno);
}

void UsageLedger::NoteFailure(int error) {
  if (options_.metrics != nullptr) options_.metrics->CountUsageLogFailure();
  if (std::exchange(is_failing_, true) || options_.log == nullptr) return;
  options_.log->Error("usage_log_failed", {{"file", options_.file},
                                           {"why", std::strerror(error)},
                                           {"note", "requests are served; their lines wait and are tried again"}});
}

void UsageLedger::NoteSuccess() {
  if (!std::exchange(is_failing_, false)) return;
  uint64_t num_lost = 0;
  {
    const std::lock_guard lock(mu_);
    num_lost = std::exchange(num_lost_, 0);
  }
  if (options_.log != nullptr)
    options_.log->Info("usage_log_works_again", {{"file", options_.file}, {"lost", num_lost}});
}

}  // namespace optserve
