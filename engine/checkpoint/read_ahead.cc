#include "engine/checkpoint/read_ahead.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "engine/util/status.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14
#endif

namespace optserve {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;

struct Pages {
  std::byte* begin = nullptr;
  size_t bytes = 0;
};

Pages PagesOf(const std::byte* data, int64_t bytes) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes) + page - 1) / page * page;
  return {reinterpret_cast<std::byte*>(begin), end - begin};  // NOLINT(performance-no-int-to-ptr)
}

absl::Status Populate(const Pages& pages, std::string_view file) {
  while (madvise(pages.begin, pages.bytes, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL) {  // an older kernel: the way of the pages is a fault each
      static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
      for (size_t at = 0; at < pages.bytes; at += page) *static_cast<const volatile std::byte*>(pages.begin + at);
      return absl::OkStatus();
    }
    if (errno == ENOMEM) return ResourceExhausted("{}: there is no memory to read it into", file);
    return Unavailable("{}: cannot be read: the disk reports an error, or the file has become shorter", file);
  }
  return absl::OkStatus();
}

absl::Status ReadPiece(const ByteRegion& part) {
  static const int64_t page = sysconf(_SC_PAGESIZE);
  if (part.rows == 1 || part.stride - part.row_bytes < page) {
    return Populate(PagesOf(part.data, (part.rows - 1) * part.stride + part.row_bytes), part.file);
  }
  // Rows with pages between them that nobody wants: first all reads are started, then waited for.
  for (const bool wait : {false, true}) {
    for (int64_t row = 0; row < part.rows; ++row) {
      const Pages pages = PagesOf(part.data + row * part.stride, part.row_bytes);
      if (!wait) {
        madvise(pages.begin, pages.bytes, MADV_WILLNEED);
      } else if (absl::Status status = Populate(pages, part.file); !status.ok()) {
        return status;
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

void StartReading(std::span<const std::byte> bytes) {
  const Pages pages = PagesOf(bytes.data(), static_cast<int64_t>(bytes.size()));
  madvise(pages.begin, pages.bytes, MADV_WILLNEED);
}

ReadAhead::ReadAhead(std::vector<ByteRegion> regions, Options options) : options_(std::move(options)) {
  int64_t bytes = 0;
  for (size_t i = 0; i < regions.size(); ++i) {
    ByteRegion rest = regions[i];
    if (rest.rows == 1 || rest.stride == rest.row_bytes) {
      rest = {.data = rest.data, .row_bytes = 1, .rows = rest.num_bytes(), .stride = 1, .file = rest.file};
    }
    unread_.push_back(0);
    const int64_t rows_at_once = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, rest.row_bytes));
    while (rest.rows > 0 && rest.row_bytes > 0) {
      ByteRegion part = rest;
      part.rows = std::min(rows_at_once, rest.rows);
      rest.data += part.rows * rest.stride;
      rest.rows -= part.rows;
      pieces_.push_back({.part = part, .region = i, .begin = bytes});
      bytes += part.num_bytes();
      ++unread_.back();
    }
    region_ends_.push_back(bytes);
  }
  const size_t num_threads = std::min(pieces_.size(), static_cast<size_t>(std::max(1, options_.num_threads)));
  for (size_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Read(); });
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status ReadAhead::Wait(size_t count) {
  std::unique_lock lock(mu_);
  if (count > 0 && region_ends_[count - 1] > waited_) {
    waited_ = region_ends_[count - 1];
    changed_.notify_all();
  }
  for (size_t i = 0; i < count; ++i) {
    changed_.wait(lock, [this, i]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return unread_[i] == 0 || !status_.ok(); });
    if (!status_.ok()) return status_;
  }
  return absl::OkStatus();
}

void ReadAhead::Read() {
  std::unique_lock lock(mu_);
  while (true) {
    // What Wait waits for is always within the window.
    changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || !status_.ok() || next_ == pieces_.size() ||
             pieces_[next_].begin < waited_ + options_.window_bytes;
    });
    if (stopping_ || !status_.ok() || next_ == pieces_.size()) return;
    const Piece& piece = pieces_[next_++];
    lock.unlock();
    absl::Status status = ReadPiece(piece.part);
    if (status.ok() && options_.progress) options_.progress(piece.part.num_bytes());
    lock.lock();
    --unread_[piece.region];
    if (!status.ok() && status_.ok()) status_ = std::move(status);
    if (unread_[piece.region] == 0 || !status_.ok()) changed_.notify_all();
  }
}

}  // namespace optserve
