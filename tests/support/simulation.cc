#include "tests/support/simulation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/common/check.h"

namespace optserve {

Simulation::Simulation(CostModel model, const SimulatedExecutor::Options& executor,
                       const std::function<void(SchedulerOptions&)>& change_options)
    : executor_(std::move(model), executor, &clock_) {
  const absl::StatusOr<StartResult> started = executor_.Start(nullptr);
  OPTSERVE_CHECK(started.ok()) << started.status().ToString();
  SchedulerOptions options{.num_blocks = started->kv.num_blocks,
                           .block_size = started->kv.block_size,
                           .max_num_seqs = executor.max_num_seqs,
                           .prefix_secret = {1, 2},
                           .check_invariants = false};
  if (change_options != nullptr) change_options(options);
  scheduler_ = std::make_unique<Scheduler>(options);
}

void Simulation::Arrive(double seconds, GenerateRequest request) {
  arrivals_.emplace(static_cast<int64_t>(seconds * 1e9), std::move(request));
}

void Simulation::Run(double until_seconds) {
  const auto until_ns = static_cast<int64_t>(std::min(until_seconds, 9e9) * 1e9);
  while (clock_.now_ns() < until_ns) {
    if (!scheduler_->HasWork() && scheduler_->num_steps_in_flight() == 0) {
      if (arrivals_.empty() || arrivals_.begin()->first >= until_ns)
        return clock_.AdvanceTo(arrivals_.empty() ? 0 : until_ns);
      clock_.AdvanceTo(arrivals_.begin()->first);
    }
    while (!arrivals_.empty() && arrivals_.begin()->first <= clock_.now_ns()) {
      GenerateRequest& request = arrivals_.begin()->second;
      records_[request.id].arrival_ns = arrivals_.begin()->first;
      scheduler_->Add(std::move(request), /*owner=*/0, arrivals_.begin()->first);
      arrivals_.erase(arrivals_.begin());
    }
    clock_.Advance(host_seconds_);
    bool is_submitted = false;
    if (scheduler_->num_steps_in_flight() == 0 || scheduler_->CanPlanAhead()) {
      const StepPlan& plan = scheduler_->PlanStep(clock_.now_ns());
      is_submitted = !plan.slices.empty();
      if (is_submitted && on_plan) on_plan(plan);
      if (is_submitted) executor_.Submit(plan);
    }
    const int32_t in_flight = scheduler_->num_steps_in_flight();
    if (in_flight > 0 && (!is_submitted || in_flight == max_steps_in_flight_)) {
      scheduler_->Commit(*executor_.Collect());
      ++num_steps_;
    }
    TakeEvents();
  }
}

void Simulation::TakeEvents() {
  std::vector<RequestId> finished;
  for (const Scheduler::Event& event : scheduler_->events()) {
    Record& record = records_[event.event.request];
    if (event.event.token.has_value()) {
      int64_t& last_ns = last_token_ns_[event.event.request];
      if (record.num_tokens++ == 0) record.first_token_ns = clock_.now_ns();
      if (last_ns != 0) {
        record.longest_gap_seconds =
            std::max(record.longest_gap_seconds, static_cast<double>(clock_.now_ns() - last_ns) / 1e9);
      }
      last_ns = clock_.now_ns();
      record.token_hash = record.token_hash * 0x9E3779B97F4A7C15ULL + static_cast<uint64_t>(event.event.token->id);
    }
    if (!event.request_done) continue;
    record.finish_ns = clock_.now_ns();
    last_token_ns_.erase(event.event.request);
    finished.push_back(event.event.request);
  }
  scheduler_->events().clear();
  if (!on_finish) return;
  for (const RequestId id : finished) on_finish(id);
}

double Percentile(std::vector<double> values, double fraction) {
  OPTSERVE_CHECK(!values.empty());
  std::ranges::sort(values);
  const auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

}  // namespace optserve
