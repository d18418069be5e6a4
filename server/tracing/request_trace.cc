#include "server/tracing/request_trace.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

namespace optserve {
namespace {

constexpr std::string_view kOperation = "text_completion";

template <typename Clock>
int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

int64_t MonotonicNs() { return NowNs<std::chrono::steady_clock>(); }

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

// A float as a person would write it, not the double next to it.
double Rounded(float value) { return std::round(static_cast<double>(value) * 1e6) / 1e6; }

// What was asked for, and never what for: prompts, stop strings, `user` and `metadata` stay here.
void AddParameters(const CompletionRequest& request, SpanAttributes& attributes) {
  const auto add = [&](std::string_view name, SpanValue value) { attributes.emplace_back(name, std::move(value)); };
  add("gen_ai.request.max_tokens", int64_t{request.max_tokens.value_or(kDefaultMaxTokens)});
  add("gen_ai.request.temperature", Rounded(request.temperature));
  add("gen_ai.request.top_p", Rounded(request.top_p));
  if (request.top_k > 0) add("gen_ai.request.top_k", int64_t{request.top_k});
  add("gen_ai.request.n", int64_t{request.n});
  if (request.best_of) add("optserve.request.best_of", int64_t{*request.best_of});
  if (request.seed) add("gen_ai.request.seed", *request.seed);
  if (request.frequency_penalty != 0) add("gen_ai.request.frequency_penalty", Rounded(request.frequency_penalty));
  if (request.presence_penalty != 0) add("gen_ai.request.presence_penalty", Rounded(request.presence_penalty));
  add("optserve.request.stream", request.stream);
  add("optserve.request.prompts", static_cast<int64_t>(request.prompts.size()));
}

bool WasStarted(const PromptTimes& times) { return times.queue_ns > 0 || times.first_token_ns > 0; }

// Times of a prompt in order, each within [begin, end], so that parts have no gap and no overlap.
struct Borders {
  int64_t submit = 0;
  int64_t start = 0;
  int64_t first_token = 0;
  int64_t end = 0;
};

Borders BordersOf(const PromptTimes& times, int64_t begin_ns, int64_t end_ns) {
  Borders borders;
  borders.end = std::clamp(times.end_ns == 0 ? end_ns : times.end_ns, begin_ns, end_ns);
  borders.submit = std::clamp(times.submit_ns, begin_ns, borders.end);
  borders.first_token =
      times.first_token_ns == 0 ? borders.end : std::clamp(times.first_token_ns, borders.submit, borders.end);
  borders.start = WasStarted(times) ? std::clamp(times.submit_ns + times.queue_ns, borders.submit, borders.first_token)
                                    : borders.end;
  return borders;
}

// vLLM's names for what its own spans tell, and OpenTelemetry's for tokens, which it has renamed since.
void AddRecord(const CallRecord& record, int64_t begin_ns, int64_t end_ns, SpanAttributes& attributes) {
  const auto add = [&](std::string_view name, SpanValue value) { attributes.emplace_back(name, std::move(value)); };
  add("gen_ai.response.id", record.id);
  add("gen_ai.response.finish_reasons", record.finish_reasons);
  add("optserve.finish", std::string(record.finish));
  add("gen_ai.usage.prompt_tokens", int64_t{record.usage.prompt_tokens});
  add("gen_ai.usage.input_tokens", int64_t{record.usage.prompt_tokens});
  add("gen_ai.usage.completion_tokens", int64_t{record.usage.completion_tokens});
  add("gen_ai.usage.output_tokens", int64_t{record.usage.completion_tokens});
  add("gen_ai.usage.cache_read.input_tokens", int64_t{record.usage.cached_tokens});
  add("gen_ai.usage.num_sequences", static_cast<int64_t>(record.finish_reasons.size()));
  add("optserve.engine_seconds", record.engine_seconds);
  Borders first{.submit = end_ns, .start = end_ns, .first_token = end_ns};
  int64_t last_end = begin_ns;
  bool has_token = false;
  bool has_started = false;
  for (const PromptTimes& times : record.prompts) {
    if (times.submit_ns == 0) continue;
    const Borders borders = BordersOf(times, begin_ns, end_ns);
    first.submit = std::min(first.submit, borders.submit);
    first.start = std::min(first.start, borders.start);
    first.first_token = std::min(first.first_token, borders.first_token);
    last_end = std::max(last_end, borders.end);
    has_token = has_token || times.first_token_ns > 0;
    has_started = has_started || WasStarted(times);
  }
  if (last_end == begin_ns) return;  // the engine got none of them
  add("gen_ai.latency.time_in_queue", Seconds(first.start - first.submit));
  if (!has_started) return;
  add("gen_ai.latency.time_in_model_prefill", Seconds(first.first_token - first.start));
  add("gen_ai.latency.time_in_model_inference", Seconds(last_end - first.start));
  if (!has_token) return;
  add("gen_ai.latency.time_to_first_token", Seconds(first.first_token - begin_ns));
  add("gen_ai.latency.time_in_model_decode", Seconds(last_end - first.first_token));
}

}  // namespace

RequestTrace::RequestTrace(TraceContext context, const std::optional<TraceContext>& parent, Emit emit)
    : context_(std::move(context)),
      parent_(parent ? parent->span_id : SpanId{}),
      has_remote_parent_(parent.has_value()),
      emit_(std::move(emit)),
      begin_ns_(MonotonicNs()),
      wall_offset_ns_(NowNs<std::chrono::system_clock>() - begin_ns_) {}

void RequestTrace::Finish(SpanAttributes attributes, bool failed) {
  const int64_t now_ns = MonotonicNs();
  const std::lock_guard lock(mu_);
  if (std::exchange(is_finished_, true)) return;
  end_ns_ = now_ns;
  failed_ = failed;
  std::ranges::move(attributes, std::back_inserter(attributes_));
}

void RequestTrace::Record(const CompletionRequest& request, CallRecord record) {
  const std::lock_guard lock(mu_);
  if (record_) return;
  AddParameters(request, attributes_);
  attributes_.emplace_back("gen_ai.request.id", request.request_id.empty() ? record.id : request.request_id);
  attributes_.emplace_back("gen_ai.request.model", record.model);
  attributes_.emplace_back("gen_ai.response.model", record.model);
  record_ = std::move(record);
}

Span RequestTrace::Part(std::string_view name, int64_t begin_ns, int64_t end_ns) const {
  Span span{.context = context_, .parent = context_.span_id, .name = std::string(name)};
  span.context.span_id = NewSpanId();
  span.begin_ns = WallTime(begin_ns);
  span.end_ns = WallTime(end_ns);
  return span;
}

void RequestTrace::AddParts(std::vector<Span>& spans, int64_t end_ns) const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  int64_t first_submit = end_ns;
  int64_t last_end = begin_ns_;
  for (size_t i = 0; i < record_->prompts.size(); ++i) {
    const PromptTimes& times = record_->prompts[i];
    if (times.submit_ns == 0) continue;
    const Borders borders = BordersOf(times, begin_ns_, end_ns);
    const auto add = [&](std::string_view name, int64_t begin, int64_t end) {
      spans.push_back(Part(name, begin, end));
      spans.back().attributes.emplace_back("optserve.prompt.index", static_cast<int64_t>(i));
    };
    first_submit = std::min(first_submit, borders.submit);
    last_end = std::max(last_end, borders.end);
    add("queue", borders.submit, borders.start);
    if (WasStarted(times)) add("prefill", borders.start, borders.first_token);
    if (times.first_token_ns > 0) add("decode", borders.first_token, borders.end);
  }
  if (last_end == begin_ns_ && first_submit == end_ns) return;  // none was submitted
  spans.push_back(Part("prepare", begin_ns_, first_submit));
  if (last_end < end_ns) spans.push_back(Part("deliver", last_end, end_ns));
}

RequestTrace::~RequestTrace() {
  // Nobody else has it any more. A transport that went without a word ended no later than now.
  const std::lock_guard lock(mu_);
  const int64_t end_ns = is_finished_ ? end_ns_ : MonotonicNs();
  std::vector<Span> spans;
  Span& whole = spans.emplace_back(Span{.context = context_,
                                        .parent = parent_,
                                        .has_remote_parent = has_remote_parent_,
                                        .is_server = true,
                                        .name = std::string(kOperation),
                                        .begin_ns = WallTime(begin_ns_),
                                        .end_ns = WallTime(end_ns),
                                        .failed = failed_});
  whole.attributes = std::move(attributes_);
  whole.attributes.emplace_back("gen_ai.operation.name", std::string(kOperation));
  whole.attributes.emplace_back("gen_ai.provider.name", "optserve");
  whole.attributes.emplace_back("gen_ai.latency.e2e", Seconds(end_ns - begin_ns_));
  if (record_) {
    whole.name += ' ';
    whole.name += record_->model;
    AddRecord(*record_, begin_ns_, end_ns, whole.attributes);
    AddParts(spans, end_ns);
  }
  emit_(std::move(spans));
}

Tracer::Tracer(double sampling, RequestTrace::Emit emit) : sampling_(sampling), emit_(std::move(emit)) {}

RequestTracing Tracer::Begin(const std::optional<TraceContext>& parent) const {
  TraceContext context = parent.value_or(TraceContext());
  if (!parent) {
    context.trace_id = NewTraceId();
    // The last eight bytes as a number below 1: the same for every program that samples the trace, as OpenTelemetry's
    // do.
    uint64_t number = 0;
    for (size_t i = 8; i < context.trace_id.size(); ++i) number = number << 8 | context.trace_id[i];
    context.sampled = sampling_ >= 1 || std::ldexp(static_cast<double>(number), -64) < sampling_;
  }
  context.span_id = NewSpanId();
  RequestTracing tracing{.context = context};
  if (context.sampled) tracing.trace = std::make_shared<RequestTrace>(std::move(context), parent, emit_);
  return tracing;
}

RequestTracing BeginTrace(const Tracer* tracer, const std::optional<TraceContext>& parent) {
  if (tracer != nullptr) return tracer->Begin(parent);
  return {.context = parent};
}

}  // namespace optserve
