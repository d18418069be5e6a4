#include "server/tracing/span_exporter.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/util/metrics.h"
#include "server/tracing/otlp_json.h"

namespace optserve {

using std::chrono::milliseconds;

SpanExporter::SpanExporter(Options options, Send send) : options_(std::move(options)), send_(std::move(send)) {
  thread_ = std::thread([this] { Run(); });
}

SpanExporter::~SpanExporter() {
  {
    std::unique_lock lock(mu_);
    stopping_ = true;
    flush_until_ = Clock::now() + options_.flush_time;
    changed_.notify_one();
    ended_.wait_until(lock, flush_until_, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return has_ended_; });
  }
  abort_.request_stop();
  thread_.join();
  const std::lock_guard lock(mu_);
  if (num_dropped_ > 0 && options_.log != nullptr) {
    options_.log->Warning("trace_spans_dropped", {{"spans", num_dropped_}});
  }
}

void SpanExporter::Export(std::vector<Span> spans) {
  const std::lock_guard lock(mu_);
  if (num_waiting_ + spans.size() > options_.max_waiting) {
    num_dropped_ += spans.size();
    if (options_.metrics != nullptr) options_.metrics->CountTraceSpansDropped(spans.size());
    return;
  }
  const bool was_empty = waiting_.empty();
  if (was_empty) oldest_ = Clock::now();
  num_waiting_ += spans.size();
  waiting_.push_back(std::move(spans));
  if (was_empty || num_waiting_ >= options_.max_batch) changed_.notify_one();
}

void SpanExporter::Run() {
  pthread_setname_np(pthread_self(), "trace-export");
  while (true) {
    const std::vector<Span> batch = TakeBatch();
    if (batch.empty()) break;
    Deliver(batch);
  }
  const std::lock_guard lock(mu_);
  has_ended_ = true;
  ended_.notify_one();
}

std::vector<Span> SpanExporter::TakeBatch() {
  std::unique_lock lock(mu_);
  const auto has_work = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !waiting_.empty(); };
  const auto is_full = [this]()
                           ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || num_waiting_ >= options_.max_batch; };
  changed_.wait(lock, has_work);
  changed_.wait_until(lock, oldest_ + options_.batch_time, is_full);
  std::vector<Span> batch;
  while (!waiting_.empty() && (batch.empty() || batch.size() + waiting_.front().size() <= options_.max_batch)) {
    std::ranges::move(waiting_.front(), std::back_inserter(batch));
    waiting_.pop_front();
  }
  num_waiting_ -= batch.size();
  return batch;
}

void SpanExporter::Deliver(std::span<const Span> batch) {
  const std::string body = EncodeTraces(batch, options_.resource, options_.version);
  const Clock::time_point give_up = Clock::now() + options_.give_up_after;
  milliseconds pause = options_.first_pause;
  while (true) {
    Clock::time_point deadline = Clock::now() + options_.send_timeout;
    {
      const std::lock_guard lock(mu_);
      if (stopping_) deadline = std::min(deadline, flush_until_);
    }
    const Delivery delivery = send_(body, deadline, abort_.get_token());
    if (delivery.result == Delivery::Result::kAccepted) {
      NoteAnswers();
      const size_t num_rejected =
          std::min(batch.size(), static_cast<size_t>(std::max<int64_t>(delivery.num_rejected, 0)));
      if (options_.metrics != nullptr) options_.metrics->CountTraceSpansExported(batch.size() - num_rejected);
      if (num_rejected > 0) Drop(num_rejected);
      return;
    }
    NoteFailure(delivery.why);
    const bool goes_on = delivery.result == Delivery::Result::kRetry && Clock::now() < give_up;
    if (!goes_on || !Pause(std::clamp(delivery.retry_after.value_or(pause), pause, options_.max_pause))) {
      return Drop(batch.size());
    }
    pause = std::min(2 * pause, options_.max_pause);
  }
}

bool SpanExporter::Pause(milliseconds time) {
  std::unique_lock lock(mu_);
  const auto is_over = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; };
  return !changed_.wait_for(lock, time, is_over);
}

void SpanExporter::Drop(size_t num_spans) {
  const std::lock_guard lock(mu_);
  num_dropped_ += num_spans;
  if (options_.metrics != nullptr) options_.metrics->CountTraceSpansDropped(num_spans);
}

void SpanExporter::NoteAnswers() {
  if (std::exchange(answers_, true) == true) return;
  uint64_t num_dropped = 0;
  {
    const std::lock_guard lock(mu_);
    num_dropped = std::exchange(num_dropped_, 0);
  }
  if (options_.log != nullptr) options_.log->Info("trace_collector_answers", {{"spans_dropped", num_dropped}});
}

void SpanExporter::NoteFailure(const std::string& why) {
  if (std::exchange(answers_, false) == false || options_.log == nullptr) return;
  options_.log->Warning("trace_collector_fails",
                        {{"why", why}, {"note", "requests are served; their spans wait and are tried again"}});
}

}  // namespace optserve
