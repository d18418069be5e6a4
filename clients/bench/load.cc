#include "clients/bench/load.h"

#include <ctime>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

namespace optserve::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Of this process, all its threads.
double CpuSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// One of the threads of a load: takes requests in the order in which they are due.
class Worker {
 public:
  Worker(Target& target, std::span<const LoadRequest> requests, const LoadOptions& options, Clock::time_point begin,
         std::atomic<int64_t>& next, std::vector<RequestRecord>& records)
      : target_(target), requests_(requests), options_(options), begin_(begin), next_(next), records_(records) {}

  void Run() {
    while (options_.stop == nullptr || !*options_.stop) {
      const int64_t index = next_++;
      if (index >= std::ssize(requests_)) return;
      RunOne(index);
    }
  }

 private:
  double Now() const { return SinceBegin(Clock::now()); }
  double SinceBegin(Clock::time_point time) const { return std::chrono::duration<double>(time - begin_).count(); }

  void RunOne(int64_t index) {
    const LoadRequest& request = requests_[index];
    RequestRecord& record = records_[index];
    record.index = index;
    record.kind = request.kind;
    record.token_times.reserve(static_cast<size_t>(request.output_tokens));
    record.token_counts.reserve(static_cast<size_t>(request.output_tokens));
    if (options_.due.empty()) {
      record.due = Now();
    } else {
      record.due = options_.due[index];
      std::this_thread::sleep_until(
          begin_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(record.due)));
    }
    record.sent = Now();
    record.outcome = target_.Complete(request, [&](int num_tokens) {
      record.token_times.push_back(Now());
      record.token_counts.push_back(num_tokens);
    });
    record.ended = Now();
    const Outcome& outcome = record.outcome;
    if (outcome.handed_over.has_value()) record.own_seconds += SinceBegin(*outcome.handed_over) - record.sent;
    if (outcome.received.has_value()) record.own_seconds += record.ended - SinceBegin(*outcome.received);
  }

  Target& target_;
  std::span<const LoadRequest> requests_;
  const LoadOptions& options_;
  const Clock::time_point begin_;
  std::atomic<int64_t>& next_;
  std::vector<RequestRecord>& records_;
};

}  // namespace

int64_t RequestRecord::num_tokens() const {
  return std::accumulate(token_counts.begin(), token_counts.end(), int64_t{0});
}

LoadResult RunLoad(Target& target, std::span<const LoadRequest> requests, const LoadOptions& options) {
  LoadResult result;
  result.records.resize(requests.size());
  const Clock::time_point begin = Clock::now();
  const double cpu = CpuSeconds();
  std::atomic<int64_t> next = 0;
  const auto num_threads = std::min<int64_t>(options.max_in_flight, std::ssize(requests));
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < num_threads; ++i) {
    threads.emplace_back([&] { Worker(target, requests, options, begin, next, result.records).Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  result.cpu_seconds = CpuSeconds() - cpu;
  result.wall_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  // Those that were taken; each was, unless the load was stopped.
  result.records.resize(static_cast<size_t>(std::min<int64_t>(next, std::ssize(requests))));
  return result;
}

}  // namespace optserve::bench
