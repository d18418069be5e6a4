#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/api/completion.h"
#include "server/tracing/span.h"
#include "server/tracing/trace_context.h"

namespace optserve {

// When things happened to one prompt of a completion; monotonic, 0: not at all.
struct PromptTimes {
  int64_t submit_ns = 0;       // the engine got it
  int64_t queue_ns = 0;        // from there to the first step that computed it: a span, not a time; 0: none did
  int64_t first_token_ns = 0;  // of any of its answers
  int64_t end_ns = 0;          // of its last answer
};

// What a completion's call tells of itself when the engine is through with it.
struct CallRecord {
  std::string id;     // "cmpl-..."
  std::string model;  // as it is served
  Usage usage;
  double engine_seconds = 0.0;
  std::string_view finish;                  // of the whole: stop, length, cancelled, deadline, error
  std::vector<std::string> finish_reasons;  // of each answer
  std::vector<PromptTimes> prompts;         // none: it failed before the engine got any
  int64_t end_ns = 0;                       // monotonic: the call was over
};

// One completion's part in a trace, from its arrival to its last byte. Spans, all of a completion at once, when
// transport, call and engine are through with it (the last reference goes):
//
//   text_completion MODEL            the whole
//     prepare                        its body is read and parsed, prompts are tokenized
//     queue, prefill, decode         of each prompt: until a step computes it, until its first token, until its last
//     deliver                        from there until the transport has written it: slow readers
//
// Neighbours share their borders, so the parts of one prompt sum to the whole. One that was not come to is not there;
// the one that a request was in when it ended early goes up to the end.
//
// Any thread; its owners are the transport and the call.
class RequestTrace {
 public:
  using Emit = std::function<void(std::vector<Span>)>;

  // `context` is its own place in the trace. `emit` is called once, at once, from any thread.
  RequestTrace(TraceContext context, const std::optional<TraceContext>& parent, Emit emit);
  ~RequestTrace();

  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  // By the transport, as its answer is out: what it knows (http.route, ...), and whether the server failed. Only the
  // first call counts.
  void Finish(SpanAttributes attributes, bool failed);

  // By the call. `request` is not kept; its parameters are, no text of it.
  void Record(const CompletionRequest& request, CallRecord record);

 private:
  int64_t WallTime(int64_t monotonic_ns) const { return monotonic_ns + wall_offset_ns_; }
  Span Part(std::string_view name, int64_t begin_ns, int64_t end_ns) const;
  void AddParts(std::vector<Span>& spans, int64_t end_ns) const;

  const TraceContext context_;
  const SpanId parent_;
  const bool has_remote_parent_;
  const Emit emit_;
  const int64_t begin_ns_;        // monotonic
  const int64_t wall_offset_ns_;  // from monotonic to since 1970

  std::mutex mu_;
  bool is_finished_ ABSL_GUARDED_BY(mu_) = false;
  int64_t end_ns_ ABSL_GUARDED_BY(mu_) = 0;
  bool failed_ ABSL_GUARDED_BY(mu_) = false;
  SpanAttributes attributes_ ABSL_GUARDED_BY(mu_);
  std::optional<CallRecord> record_ ABSL_GUARDED_BY(mu_);
};

// A completion's place in a trace, as its transport has it.
struct RequestTracing {
  std::optional<TraceContext> context;  // for the answer and the log; none: it is in no trace
  std::shared_ptr<RequestTrace> trace;  // null: nothing is recorded
};

// Decides which completions are recorded. Any thread.
class Tracer {
 public:
  // `sampling`: of requests that come without a traceparent, that part is recorded, 0 to 1, by trace id. With one its
  // sampled flag decides.
  Tracer(double sampling, RequestTrace::Emit emit);

  RequestTracing Begin(const std::optional<TraceContext>& parent) const;

 private:
  const double sampling_;
  const RequestTrace::Emit emit_;
};

// Without a `tracer` what came is passed on as it came.
RequestTracing BeginTrace(const Tracer* tracer, const std::optional<TraceContext>& parent);

}  // namespace optserve
