// Loading a model against reading its files:
//
//     load_bench MODEL_DIR [tensor-parallel size] [repetitions]
//
// Time to load (open, match, read, make usable by the CPU backend) divided by the time in which as many threads read
// the same files with pread into small buffers, one right after the other, so that both see the same disk and the same
// neighbours. Warm: all of it in the page cache. Cold: the files' pages dropped before each. Prints medians of ratios.

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "engine/model/load_config.h"
#include "engine/model/opt_weights.h"
#include "engine/tools/measurement.h"
#include "engine/tools/probe.h"
#include "kernels/backend.h"

namespace optserve {
namespace {

constexpr int kThreads = 4;  // as the engine reads with
constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr double kGoal = 1.2;

struct File {
  int fd = -1;
  int64_t bytes = 0;
};

std::vector<File> OpenWeights(const std::string& directory) {
  std::vector<File> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".safetensors" && extension != ".bin" && extension != ".pt") continue;
    files.push_back({.fd = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC),
                     .bytes = static_cast<int64_t>(std::filesystem::file_size(entry.path()))});
    if (files.back().fd < 0) std::abort();
  }
  return files;
}

// Pages that are dirty stay: write them back first.
void DropPages(const std::vector<File>& files) {
  for (const File& file : files) {
    fsync(file.fd);
    posix_fadvise(file.fd, 0, 0, POSIX_FADV_DONTNEED);
  }
}

double SecondsToRead(const std::vector<File>& files) {
  struct Piece {
    int fd;
    int64_t offset;
    int64_t bytes;
  };
  std::vector<Piece> pieces;
  for (const File& file : files) {
    for (int64_t at = 0; at < file.bytes; at += kPieceBytes) {
      pieces.push_back({file.fd, at, std::min(kPieceBytes, file.bytes - at)});
    }
  }
  std::atomic<size_t> next = 0;
  const double begin = Now();
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      std::vector<std::byte> buffer(kPieceBytes);
      for (size_t at = next++; at < pieces.size(); at = next++) {
        if (pread(pieces[at].fd, buffer.data(), static_cast<size_t>(pieces[at].bytes), pieces[at].offset) !=
            pieces[at].bytes) {
          std::abort();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return Now() - begin;
}

// All ranks at a time, as the engine does it.
double SecondsToLoad(const std::string& directory, int size) {
  const double begin = Now();
  const absl::StatusOr<OpenedModel> model = OpenModel(directory);
  if (!model.ok()) {
    fmt::print(stderr, "load_bench: {}\n", std::string(model.status().message()));
    std::exit(2);
  }
  const OptTensors tensors = *OptTensors::Match(model->config, *model->checkpoint);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.emplace_back([&, rank] {
      const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
      const auto weights = LoadOptWeights(model->config, tensors, {.rank = rank, .size = size}, *backend,
                                          {.num_readers = std::max(2, kThreads / size)});
      if (!weights.ok()) std::abort();
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return Now() - begin;
}

void Measure(const char* name, const std::string& directory, int size, int repetitions, bool cold) {
  const std::vector<File> files = OpenWeights(directory);
  double bytes = 0;
  for (const File& file : files) bytes += static_cast<double>(file.bytes);
  std::vector<double> ratios, rates, seconds;
  if (!cold) SecondsToRead(files);
  for (int i = 0; i < repetitions; ++i) {
    if (cold) DropPages(files);
    double read = SecondsToRead(files);
    if (cold) DropPages(files);
    const double load = SecondsToLoad(directory, size);
    if (cold) DropPages(files);
    read = (read + SecondsToRead(files)) / 2;  // before and after
    ratios.push_back(load / read);
    rates.push_back(bytes / read / 1e9);
    seconds.push_back(load);
  }
  const double ratio = Median(ratios);
  fmt::print("{:5} {:6.2f} GB   load {:7.3f} s   probe {:6.2f} GB/s   ratio {:5.2f} (goal at most {}: {})   all:", name,
             bytes / 1e9, Median(seconds), Median(rates), ratio, kGoal, ratio <= kGoal ? "good" : "missed");
  for (const double each : ratios) fmt::print(" {:.2f}", each);
  fmt::print("\n");
  for (const File& file : files) close(file.fd);
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: load_bench MODEL_DIR [tensor-parallel size] [repetitions]\n");
    return 2;
  }
  const int size = argc > 2 ? std::atoi(argv[2]) : 1;
  const int repetitions = argc > 3 ? std::atoi(argv[3]) : 5;
  optserve::Measure("warm", argv[1], size, repetitions, /*cold=*/false);
  optserve::Measure("cold", argv[1], size, repetitions, /*cold=*/true);
  return 0;
}
