#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/util/log.h"
#include "server/tracing/span.h"

namespace optserve {

class Metrics;

// What became of a batch that was sent.
struct Delivery {
  enum class Result {
    kAccepted,
    kRetry,    // nobody answered, or who did said: later
    kRefused,  // it will not be taken: sending it again would not help
  };
  Result result = Result::kAccepted;
  std::string why = {};                                       // not kAccepted
  int64_t num_rejected = 0;                                   // kAccepted, but for so many spans
  std::optional<std::chrono::milliseconds> retry_after = {};  // kRetry: what the collector asked for
};

// Hands spans to a collector, in batches, from a thread of its own. Nobody waits for a collector: what it does not take
// waits here, up to max_waiting spans; then, or when a batch has been tried for give_up_after, spans are dropped and
// counted. The log has a line when the collector begins to answer, and when it ceases to.
//
// Any thread may export.
class SpanExporter {
 public:
  // Sends the body of a request and returns by the deadline, or soon after `stop` is requested.
  using Send = std::function<Delivery(const std::string& body, std::chrono::steady_clock::time_point deadline,
                                      std::stop_token stop)>;

  struct Options {
    SpanAttributes resource = {};  // who the spans are of
    std::string version = {};
    size_t max_waiting = 16 * 1024;              // spans, some 16 MiB
    size_t max_batch = 512;                      // spans, but those of one request stay together
    std::chrono::milliseconds batch_time{1000};  // that the first span of a batch waits for others
    std::chrono::milliseconds send_timeout{10'000};
    std::chrono::milliseconds first_pause{1000};  // between two attempts; doubles up to max_pause
    std::chrono::milliseconds max_pause{30'000};
    std::chrono::milliseconds give_up_after{300'000};
    std::chrono::milliseconds flush_time{3000};  // at the end
    const Log* log = nullptr;                    // outlives the exporter
    Metrics* metrics = nullptr;                  // likewise
  };

  SpanExporter(Options options, Send send);

  // Sends what waits, for flush_time at most; the rest is dropped.
  ~SpanExporter();

  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;

  // Takes all of them or, when the queue is full, none. At once.
  void Export(std::vector<Span> spans);

 private:
  using Clock = std::chrono::steady_clock;

  void Run();
  std::vector<Span> TakeBatch();  // empty: the end
  void Deliver(std::span<const Span> batch);
  bool Pause(std::chrono::milliseconds time);  // false: the end has come meanwhile
  void Drop(size_t num_spans);
  void NoteAnswers();
  void NoteFailure(const std::string& why);

  const Options options_;
  const Send send_;

  std::mutex mu_;
  std::condition_variable changed_;
  std::condition_variable ended_;
  std::deque<std::vector<Span>> waiting_ ABSL_GUARDED_BY(mu_);  // by request
  size_t num_waiting_ ABSL_GUARDED_BY(mu_) = 0;                 // spans
  uint64_t num_dropped_ ABSL_GUARDED_BY(mu_) = 0;               // since the last line of the log that says how many
  Clock::time_point oldest_ ABSL_GUARDED_BY(mu_);               // when the first that waits came
  Clock::time_point flush_until_ ABSL_GUARDED_BY(mu_);          // with stopping_
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool has_ended_ ABSL_GUARDED_BY(mu_) = false;

  std::optional<bool> answers_;  // none: nothing has been sent yet. The thread's alone
  std::stop_source abort_;       // of what is being sent
  std::thread thread_;
};

}  // namespace optserve
