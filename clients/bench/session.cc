#include "clients/bench/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace optserve::bench {
namespace {

constexpr double kSweepParts[] = {0.1, 0.25, 0.5, 0.7, 0.85, 1.0, 1.15};

// Counters arrive a moment after the events: a server's engine process sends its own 20 ms later, on a busy machine
// later still. They are read until they stand still, but no longer than two seconds.
constexpr std::chrono::milliseconds kCounterDelay{60};
constexpr int kMostReadings = 33;

// Of a load that came to nothing: its first error, with what the server said.
absl::Status NothingAnswered(const Run& run) {
  const auto failed =
      std::ranges::find_if(run.records, [](const RequestRecord& record) { return !record.outcome.error.empty(); });
  if (failed == run.records.end()) return absl::FailedPreconditionError("no request was answered: none was sent");
  const Outcome& outcome = failed->outcome;
  return absl::FailedPreconditionError(fmt::format("no request was answered: {}{}{}", outcome.error,
                                                   outcome.message.empty() ? "" : ", ", outcome.message));
}

class Session {
 public:
  Session(const SessionOptions& options, const Subject& subject) : options_(options), subject_(subject) {}

  absl::StatusOr<Report> Perform() {
    absl::StatusOr<std::vector<LoadRequest>> requests =
        MakeWorkload(options_.workload, options_.requests + options_.warm_up);
    if (!requests.ok()) return requests.status();
    requests_ = *std::move(requests);
    report_.workload = options_.workload;
    report_.limits = options_.limits;
    report_.roof = subject_.roof;
    report_.is_sweep = options_.sweep;
    if (options_.rates.empty()) {
      RunOne(fmt::format("closed loop, {} at a time", options_.concurrency), 0.0);
      if (report_.runs.front().summary.answered == 0) return NothingAnswered(report_.runs.front());
    }
    for (const double rate : options_.rates) RunRate(rate);
    if (options_.sweep) Sweep();
    return std::move(report_);
  }

 private:
  std::optional<EngineReading> Read() {
    std::optional<EngineReading> last = subject_.read ? subject_.read() : std::nullopt;
    for (int i = 0; last.has_value() && i < kMostReadings; ++i) {
      std::this_thread::sleep_for(kCounterDelay);
      std::optional<EngineReading> next = subject_.read();
      const bool stands_still =
          next.has_value() && next->steps == last->steps && next->queue_seconds == last->queue_seconds &&
          next->engine_seconds == last->engine_seconds && next->serving_seconds == last->serving_seconds &&
          next->request.phase_seconds == last->request.phase_seconds;
      last = std::move(next);
      if (stands_still) break;
    }
    return last;
  }

  // Of this load; the engine may remember fewer than there were.
  std::vector<EngineStep> LastSteps(double num_steps) const {
    if (!subject_.steps) return {};
    std::vector<EngineStep> steps = subject_.steps();
    std::ranges::sort(steps, {}, &EngineStep::begin);
    const auto keep = static_cast<ptrdiff_t>(std::min(num_steps, static_cast<double>(steps.size())));
    steps.erase(steps.begin(), steps.end() - keep);
    return steps;
  }

  void RunRate(double rate) {
    RunOne(fmt::format("{:.4g} requests/s, {}", rate, options_.even ? "even" : "Poisson"), rate);
  }

  void RunOne(const std::string& name, double rate) {
    if (subject_.progress) subject_.progress(name);
    Run run{.name = name, .offered_rate = rate, .warm_up = options_.warm_up};
    run.max_in_flight = rate > 0 ? options_.max_in_flight : options_.concurrency;
    LoadOptions load{.max_in_flight = run.max_in_flight};
    if (rate > 0) {
      load.due = options_.even ? EvenArrivals(rate, std::ssize(requests_))
                               : PoissonArrivals(rate, std::ssize(requests_), options_.workload.seed);
    }
    const std::optional<EngineReading> before = Read();
    LoadResult result = RunLoad(subject_.target, requests_, load);
    const std::optional<EngineReading> after = Read();
    run.summary = Summarize(result.records, options_.warm_up, options_.limits);
    if (before.has_value() && after.has_value()) {
      const EngineReading reading = Since(*before, *after);
      run.explanation = Explain(reading, result.records, subject_.roof);
      run.explanation->last_steps = LastSteps(reading.steps);
    }
    run.client_limits = ClientLimits(result, run.summary, subject_.in_process, rate > 0);
    run.records = std::move(result.records);
    report_.runs.push_back(std::move(run));
  }

  void Sweep() {
    const double capacity = report_.runs.front().summary.requests_per_second;
    for (const double part : kSweepParts) RunRate(part * capacity);
    std::vector<SweepPoint> points;
    for (size_t i = 1; i < report_.runs.size(); ++i) {
      const Run& run = report_.runs[i];
      points.push_back({.offered = run.offered_rate,
                        .achieved = run.summary.requests_per_second,
                        .end_to_end_p50 = Quantile(run.summary.latencies.end_to_end, 0.5),
                        .good_share = run.summary.good_share});
    }
    const int knee = KneeOf(points, options_.limits.any());
    report_.knee = knee < 0 ? -1 : knee + 1;
  }

  const SessionOptions& options_;
  const Subject& subject_;
  std::vector<LoadRequest> requests_;
  Report report_;
};

}  // namespace

absl::StatusOr<Report> RunSession(const SessionOptions& options, const Subject& subject) {
  return Session(options, subject).Perform();
}

}  // namespace optserve::bench
