#include "engine/util/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace optserve {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct MetricInfo {
  const char* name;
  const char* help;
  MetricType type;
};

// Every metric, in the order in which it is printed.
constexpr MetricInfo kRequestsRunning = {"optserve_requests_running", "Sequences in the running batch.",
                                         MetricType::Gauge};
constexpr MetricInfo kRequestsWaiting = {"optserve_requests_waiting",
                                         "Sequences in the queue, preempted ones included.", MetricType::Gauge};
constexpr MetricInfo kKvCacheUsage = {"optserve_kv_cache_usage_ratio", "Blocks of the KV pool in use, 0 to 1.",
                                      MetricType::Gauge};
constexpr MetricInfo kPromptTokens = {"optserve_prompt_tokens_total",
                                      "Prompt tokens computed, recomputation after preemption included.",
                                      MetricType::Counter};
constexpr MetricInfo kGenerationTokens = {"optserve_generation_tokens_total", "Tokens generated.", MetricType::Counter};
constexpr MetricInfo kRequests = {"optserve_requests_total", "Requests that have ended, by how they ended.",
                                  MetricType::Counter};
constexpr MetricInfo kPreemptions = {"optserve_preemptions_total",
                                     "Sequences whose blocks were taken back to be recomputed later.",
                                     MetricType::Counter};
constexpr MetricInfo kPrefixCacheQueries = {"optserve_prefix_cache_queries_total",
                                            "Prompt tokens looked up in the prefix cache.", MetricType::Counter};
constexpr MetricInfo kPrefixCacheHits = {"optserve_prefix_cache_hits_total", "Prompt tokens that the prefix cache had.",
                                         MetricType::Counter};
constexpr MetricInfo kTimeToFirstToken = {"optserve_time_to_first_token_seconds",
                                          "From a request's arrival to the first token of an answer.",
                                          MetricType::Histogram};
constexpr MetricInfo kInterTokenLatency = {"optserve_inter_token_latency_seconds", "Between two tokens of one answer.",
                                           MetricType::Histogram};
constexpr MetricInfo kRequestDuration = {"optserve_request_duration_seconds",
                                         "From a request's arrival to the end of its last answer.",
                                         MetricType::Histogram};
constexpr MetricInfo kRequestQueue = {"optserve_request_queue_seconds",
                                      "From a request's arrival to the first step that computes it.",
                                      MetricType::Histogram};
constexpr MetricInfo kStepSeconds = {"optserve_step_seconds", "One forward pass over all ranks.",
                                     MetricType::Histogram};
constexpr MetricInfo kStepTokens = {"optserve_step_tokens", "Tokens computed in one step.", MetricType::Histogram};
constexpr MetricInfo kStepPhase = {"optserve_step_phase_seconds_total",
                                   "Time in which there was work, by what it went to.", MetricType::Counter};
constexpr MetricInfo kStepDemand = {"optserve_step_demand_total",
                                    "Bytes that steps had to read at least, and multiplications and additions they had "
                                    "to make.",
                                    MetricType::Counter};
constexpr MetricInfo kRequestPhase = {"optserve_request_phase_seconds_total",
                                      "The same time, counted once for each sequence in a step: what requests waited "
                                      "for.",
                                      MetricType::Counter};
constexpr MetricInfo kRequestDemand = {"optserve_request_demand_total",
                                       "What steps had to read and compute at least, counted in the same way.",
                                       MetricType::Counter};
constexpr MetricInfo kRequestEngine = {"optserve_request_engine_seconds_total",
                                       "From when an engine took a request until its last event was there, summed.",
                                       MetricType::Counter};
constexpr MetricInfo kRequestServing = {"optserve_request_serving_seconds_total",
                                        "From when a request had come whole until all of its answer was made, summed.",
                                        MetricType::Counter};
constexpr MetricInfo kEngineRestarts = {"optserve_engine_restarts_total",
                                        "Engine processes started in place of one that died.", MetricType::Counter};
constexpr MetricInfo kNonfiniteRows = {"optserve_nonfinite_rows_total", "Rows of logits that held NaN or infinity.",
                                       MetricType::Counter};
constexpr MetricInfo kUsageLogFailures = {"optserve_usage_log_failures_total",
                                          "Attempts to write or sync the usage log that failed.", MetricType::Counter};
constexpr MetricInfo kUsageRecordsLost = {"optserve_usage_records_lost_total",
                                          "Requests whose usage was given up, because the log could not be written.",
                                          MetricType::Counter};
constexpr MetricInfo kTraceSpansExported = {"optserve_trace_spans_exported_total",
                                            "Spans that the collector of traces has taken.", MetricType::Counter};
constexpr MetricInfo kTraceSpansDropped = {"optserve_trace_spans_dropped_total",
                                           "Spans given up, because the collector of traces did not take them.",
                                           MetricType::Counter};
constexpr MetricInfo kEngineHealthy = {"optserve_engine_healthy", "1 while the engine answers, else 0.",
                                       MetricType::Gauge};
constexpr MetricInfo kDraining = {"optserve_draining", "1 from SIGTERM on, while running requests finish, else 0.",
                                  MetricType::Gauge};
constexpr MetricInfo kBuildInfo = {"optserve_build_info", "Always 1; the label says which build this is.",
                                   MetricType::Gauge};

// 1 ms to 2 minutes, about three to a decade.
prometheus::Histogram::BucketBoundaries LatencyBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120};
}

prometheus::Histogram::BucketBoundaries StepBuckets() {
  return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2};
}

prometheus::Histogram::BucketBoundaries TokenBuckets() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
}

// Of requests_total, by FinishReason; kNone is no end.
constexpr std::array<const char*, 6> kFinishNames = {"", "stop", "length", "cancelled", "deadline", "error"};

// vLLM's names, old and new ones where it has renamed one, for what is above.
struct VllmName {
  const char* name;
  const MetricInfo& ours;
};
constexpr VllmName kVllmValues[] = {
    {"vllm:num_requests_running", kRequestsRunning},
    {"vllm:num_requests_waiting", kRequestsWaiting},
    {"vllm:kv_cache_usage_perc", kKvCacheUsage},
    {"vllm:gpu_cache_usage_perc", kKvCacheUsage},
    {"vllm:num_preemptions_total", kPreemptions},
    {"vllm:prompt_tokens_total", kPromptTokens},
    {"vllm:generation_tokens_total", kGenerationTokens},
    {"vllm:prefix_cache_queries_total", kPrefixCacheQueries},
    {"vllm:prefix_cache_hits_total", kPrefixCacheHits},
    {"vllm:time_to_first_token_seconds", kTimeToFirstToken},
    {"vllm:inter_token_latency_seconds", kInterTokenLatency},
    {"vllm:time_per_output_token_seconds", kInterTokenLatency},
    {"vllm:e2e_request_latency_seconds", kRequestDuration},
    {"vllm:request_queue_time_seconds", kRequestQueue},
    {"vllm:iteration_tokens_total", kStepTokens},
};
constexpr MetricInfo kVllmRequestSuccess = {"vllm:request_success_total", kRequests.help, MetricType::Counter};

MetricFamily Family(const MetricInfo& info, std::vector<ClientMetric> metrics) {
  return {.name = info.name, .help = info.help, .type = info.type, .metric = std::move(metrics)};
}

MetricFamily Value(const MetricInfo& info, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (info.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return Family(info, {std::move(metric)});
}

ClientMetric Labelled(const char* label, std::string_view value, double count) {
  ClientMetric metric;
  metric.label = {{label, std::string(value)}};
  metric.counter.value = count;
  return metric;
}

MetricFamily Phases(const MetricInfo& info, const StepTimes& times) {
  std::vector<ClientMetric> metrics;
  for (size_t i = 0; i < kNumStepPhases; ++i) {
    metrics.push_back(Labelled("phase", kStepPhaseNames[i], static_cast<double>(times.ns[i]) * 1e-9));
  }
  return Family(info, std::move(metrics));
}

MetricFamily Demand(const MetricInfo& info, const StepDemand& demand) {
  return Family(info,
                {Labelled("kind", "weight_bytes", demand.weight_bytes), Labelled("kind", "kv_bytes", demand.kv_bytes),
                 Labelled("kind", "weight_flops", demand.weight_flops),
                 Labelled("kind", "attention_flops", demand.attention_flops)});
}

}  // namespace

class Metrics::Impl {
 public:
  explicit Impl(std::string_view version_in) : version(version_in) {}

  std::vector<MetricFamily> Collect(const EngineStats& stats, bool engine_healthy) const;
  double EndedBy(FinishReason finish) const { return requests[static_cast<size_t>(finish)].Value(); }

  const std::string version;
  prometheus::Histogram time_to_first_token{LatencyBuckets()};
  prometheus::Histogram inter_token_latency{LatencyBuckets()};
  prometheus::Histogram request_duration{LatencyBuckets()};
  prometheus::Histogram request_queue{LatencyBuckets()};
  prometheus::Histogram step_seconds{StepBuckets()};
  prometheus::Histogram step_tokens{TokenBuckets()};
  std::array<prometheus::Counter, kFinishNames.size()> requests;
  prometheus::Counter request_serving;
  prometheus::Counter engine_restarts;
  prometheus::Gauge draining;
  prometheus::Counter usage_log_failures;
  prometheus::Counter usage_records_lost;
  prometheus::Counter trace_spans_exported;
  prometheus::Counter trace_spans_dropped;
};

Metrics::Metrics(std::string_view version) : impl_(std::make_unique<Impl>(version)) {}
Metrics::~Metrics() = default;

void Metrics::ObserveTimeToFirstToken(double seconds) { impl_->time_to_first_token.Observe(seconds); }
void Metrics::ObserveInterTokenLatency(double seconds) { impl_->inter_token_latency.Observe(seconds); }
void Metrics::ObserveRequestQueue(double seconds) { impl_->request_queue.Observe(seconds); }
void Metrics::ObserveServing(double seconds) { impl_->request_serving.Increment(seconds); }
void Metrics::CountEngineRestart() { impl_->engine_restarts.Increment(); }
void Metrics::SetDraining() { impl_->draining.Set(1); }
void Metrics::CountUsageLogFailure() { impl_->usage_log_failures.Increment(); }
void Metrics::CountUsageRecordLost() { impl_->usage_records_lost.Increment(); }
void Metrics::CountTraceSpansExported(size_t num_spans) {
  impl_->trace_spans_exported.Increment(static_cast<double>(num_spans));
}
void Metrics::CountTraceSpansDropped(size_t num_spans) {
  impl_->trace_spans_dropped.Increment(static_cast<double>(num_spans));
}

void Metrics::ObserveRequest(double seconds, FinishReason finish) {
  impl_->request_duration.Observe(seconds);
  impl_->requests[static_cast<size_t>(finish)].Increment();
}

void Metrics::ObserveStep(double seconds, int32_t tokens) {
  impl_->step_seconds.Observe(seconds);
  impl_->step_tokens.Observe(tokens);
}

std::vector<MetricFamily> Metrics::Impl::Collect(const EngineStats& stats, bool engine_healthy) const {
  std::vector<ClientMetric> ended;
  for (size_t i = 1; i < kFinishNames.size(); ++i) {
    ClientMetric metric = requests[i].Collect();
    metric.label = {{"finish_reason", kFinishNames[i]}};
    ended.push_back(std::move(metric));
  }
  const double kv_usage = stats.blocks_total == 0 ? 0.0 : static_cast<double>(stats.blocks_used) / stats.blocks_total;
  const auto count = [](uint64_t value) { return static_cast<double>(value); };
  return {
      Value(kRequestsRunning, stats.running),
      Value(kRequestsWaiting, stats.waiting),
      Value(kKvCacheUsage, kv_usage),
      Value(kPromptTokens, count(stats.prompt_tokens)),
      Value(kGenerationTokens, count(stats.generated_tokens)),
      Family(kRequests, std::move(ended)),
      Value(kPreemptions, count(stats.preemptions)),
      Value(kPrefixCacheQueries, count(stats.prefix_cache_queries)),
      Value(kPrefixCacheHits, count(stats.prefix_cache_hits)),
      Family(kTimeToFirstToken, {time_to_first_token.Collect()}),
      Family(kInterTokenLatency, {inter_token_latency.Collect()}),
      Family(kRequestDuration, {request_duration.Collect()}),
      Family(kRequestQueue, {request_queue.Collect()}),
      Family(kStepSeconds, {step_seconds.Collect()}),
      Family(kStepTokens, {step_tokens.Collect()}),
      Phases(kStepPhase, stats.step_account.times),
      Demand(kStepDemand, stats.step_account.demand),
      Phases(kRequestPhase, stats.request_account.times),
      Demand(kRequestDemand, stats.request_account.demand),
      Value(kRequestEngine, stats.request_seconds),
      Value(kRequestServing, request_serving.Value()),
      Value(kEngineRestarts, engine_restarts.Value()),
      Value(kNonfiniteRows, count(stats.nonfinite_rows)),
      Value(kUsageLogFailures, usage_log_failures.Value()),
      Value(kUsageRecordsLost, usage_records_lost.Value()),
      Value(kTraceSpansExported, trace_spans_exported.Value()),
      Value(kTraceSpansDropped, trace_spans_dropped.Value()),
      Value(kEngineHealthy, engine_healthy ? 1 : 0),
      Value(kDraining, draining.Value()),
      Value(kBuildInfo, 1, {{"version", version}}),
  };
}

std::string Metrics::Render(const EngineStats& stats, bool engine_healthy) const {
  return prometheus::TextSerializer().Serialize(impl_->Collect(stats, engine_healthy));
}

std::string Metrics::RenderAsVllm(const EngineStats& stats, std::string_view model_name) const {
  const std::vector<MetricFamily> ours = impl_->Collect(stats, /*engine_healthy=*/true);
  const std::vector<ClientMetric::Label> labels = {{"model_name", std::string(model_name)}, {"engine", "0"}};
  std::vector<MetricFamily> theirs;
  for (const VllmName& entry : kVllmValues) {
    const auto family =
        std::find_if(ours.begin(), ours.end(), [&](const MetricFamily& f) { return f.name == entry.ours.name; });
    theirs.push_back(*family);
    theirs.back().name = entry.name;
    for (ClientMetric& metric : theirs.back().metric) metric.label = labels;
  }
  // vLLM calls an answer that nobody waited for "abort".
  const std::pair<const char*, double> ended[] = {
      {"stop", impl_->EndedBy(FinishReason::kStop)},
      {"length", impl_->EndedBy(FinishReason::kLength)},
      {"abort", impl_->EndedBy(FinishReason::kCancelled) + impl_->EndedBy(FinishReason::kDeadline)},
      {"error", impl_->EndedBy(FinishReason::kError)}};
  MetricFamily success = Family(kVllmRequestSuccess, {});
  for (const auto& [reason, requests] : ended) {
    ClientMetric metric;
    metric.label = labels;
    metric.label.push_back({"finished_reason", reason});
    metric.counter.value = requests;
    success.metric.push_back(std::move(metric));
  }
  theirs.push_back(std::move(success));
  return prometheus::TextSerializer().Serialize(theirs);
}

}  // namespace optserve
