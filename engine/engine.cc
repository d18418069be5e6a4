#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <random>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

// CLOCK_MONOTONIC, which deadlines are on.
int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

PrefixSecret DrawSecret() {
  std::random_device random;
  const auto word = [&random] { return uint64_t{random()} << 32 | random(); };
  return {word(), word()};
}

absl::Status ShuttingDown() {
  return WithRetryAfter(WithErrorCode(Unavailable("the server is shutting down"), "shutting_down"), 1);
}

absl::Status Death(std::string_view why) {
  return WithErrorCode(Unavailable("the engine has stopped: {}", why), "engine_dead");
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalEngine>> LocalEngine::Start(const EngineConfig& config,
                                                                std::unique_ptr<Executor> executor,
                                                                const LoadProgress& progress) {
  std::unique_ptr<LocalEngine> engine(new LocalEngine(config, std::move(executor)));
  // One thread calls the executor, from the beginning.
  std::promise<absl::Status> started;
  std::future<absl::Status> start_status = started.get_future();
  engine->thread_ = std::thread([engine = engine.get(), &progress, started = std::move(started)]() mutable {
    const absl::Status status = engine->StartExecutor(progress);
    const bool is_ready = status.ok();
    started.set_value(status);
    if (is_ready) engine->Run();
  });
  OPTSERVE_RETURN_IF_ERROR(start_status.get());
  return engine;
}

LocalEngine::LocalEngine(const EngineConfig& config, std::unique_ptr<Executor> executor)
    : config_(config),
      executor_(std::move(executor)),
      step_deadline_(config.step_timeout_seconds),
      queue_(config.max_queue, config.max_queue_tokens) {}

LocalEngine::~LocalEngine() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::Status LocalEngine::StartExecutor(const LoadProgress& progress) {
  OPTSERVE_ASSIGN_OR_RETURN(StartResult started, executor_->Start(progress));
  model_ = std::move(started.model);
  max_steps_in_flight_ = started.max_steps_in_flight;
  model_.max_num_seqs = config_.max_num_seqs;
  model_.kv_tokens = int64_t{started.kv.num_blocks} * started.kv.block_size;
  scheduler_ = std::make_unique<Scheduler>(SchedulerOptions{.num_blocks = started.kv.num_blocks,
                                                            .block_size = started.kv.block_size,
                                                            .max_num_seqs = config_.max_num_seqs,
                                                            .max_num_batched_tokens = config_.max_num_batched_tokens,
                                                            .batch_step_tokens = config_.batch_step_tokens,
                                                            .prefix_cache = config_.prefix_cache,
                                                            .share_prefix_cache = config_.share_prefix_cache,
                                                            .prefix_secret = DrawSecret()});
  Publish();
  return absl::OkStatus();
}

// The engine's thread; readers start here.
void LocalEngine::Run() {
  accounted_ns_ = NowNs();
  while (TakeInbox()) {
    // A step more under way, if the executor takes one; else wait for the oldest.
    const bool is_submitted = SubmitStep();
    if (!steps_in_flight_.empty() && (!is_submitted || std::ssize(steps_in_flight_) == max_steps_in_flight_)) {
      if (const absl::Status status = CollectStep(); !status.ok()) {
        DropSteps();
        return Stop(FinishReason::kError, status);
      }
    }
    Publish();
    DeliverEvents();
    CloseAccount();
  }
  DropSteps();
  Stop(FinishReason::kCancelled, absl::OkStatus());
}

bool LocalEngine::SubmitStep() {
  if (std::ssize(steps_in_flight_) == max_steps_in_flight_) return false;
  if (!steps_in_flight_.empty() && !scheduler_->CanPlanAhead()) return false;
  const StepPlan& plan = scheduler_->PlanStep(NowNs());
  if (plan.slices.empty()) return false;
  if (steps_in_flight_.empty()) NoteStepStart(NowNs());
  steps_in_flight_.push_back({.step = plan.step,
                              .num_tokens = static_cast<int32_t>(plan.token_ids.size()),
                              .num_sequences = static_cast<int32_t>(plan.slices.size())});
  executor_->Submit(plan);
  return true;
}

absl::Status LocalEngine::CollectStep() {
  absl::StatusOr<StepResult> result = executor_->Collect();
  const StepInFlight step = steps_in_flight_.front();
  steps_in_flight_.pop_front();
  const int64_t start_ns = step_start_ns_of_engine_;
  NoteStepStart(steps_in_flight_.empty() ? 0 : NowNs());  // the next one runs already
  if (!result.ok()) return Death(std::string(result.status().message()));
  const int64_t step_ns = NowNs() - start_ns;
  counters_.last_step_seconds = static_cast<double>(step_ns) / 1e9;
  counters_.last_step_tokens = step.num_tokens;
  counters_.step_seconds += counters_.last_step_seconds;
  counters_.steps = step.step;
  open_account_ = {.step = step, .times = result->times, .demand = result->demand};
  scheduler_->Commit(std::move(*result), step_ns);
  if (scheduler_->is_device_suspect()) return Death("NaN or Inf with several prompts: the device computes nonsense");
  return absl::OkStatus();
}

void LocalEngine::DropSteps() {
  for (; !steps_in_flight_.empty(); steps_in_flight_.pop_front()) (void)executor_->Collect();
  NoteStepStart(0);
}

void LocalEngine::NoteStepStart(int64_t start_ns) {
  step_start_ns_of_engine_ = start_ns;
  const std::lock_guard lock(mu_);
  step_start_ns_ = start_ns;
}

bool LocalEngine::TakeInbox() {
  {
    std::unique_lock lock(mu_);
    const auto has_work = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || !inbox_.empty() || scheduler_->HasWork() || !steps_in_flight_.empty();
    };
    if (!has_work()) {
      wake_.wait(lock, has_work);
      accounted_ns_ = NowNs();  // what was idle is nobody's time
    }
    if (stopping_) return false;
    taken_.swap(inbox_);
  }
  for (Command& command : taken_) Apply(std::move(command));
  taken_.clear();
  return true;
}

void LocalEngine::Apply(Command command) {
  if (auto* submit = std::get_if<SubmitCommand>(&command)) {
    const uint32_t slot = SlotOf(std::move(submit->sink));
    ++sinks_[slot].num_requests;
    scheduler_->Add(std::move(submit->request), slot, submit->submitted_ns);
    return;
  }
  const CancelCommand& cancel = std::get<CancelCommand>(command);
  if (cancel.choice.has_value()) {
    scheduler_->CancelChoice(cancel.id, *cancel.choice);
  } else {
    scheduler_->Cancel(cancel.id);
  }
}

void LocalEngine::Stop(FinishReason reason, const absl::Status& error) {
  {
    const std::lock_guard lock(mu_);
    health_ = error.ok() ? ShuttingDown() : error;
    taken_.swap(inbox_);
  }
  for (Command& command : taken_) Apply(std::move(command));
  taken_.clear();
  scheduler_->EndAll({.finish = reason, .error = error});
  Publish();
  DeliverEvents();
}

void LocalEngine::Publish() {
  const SchedulerStats& scheduled = scheduler_->stats();
  counters_.running = scheduler_->num_running();
  counters_.waiting = scheduler_->num_waiting();
  counters_.blocks_total = scheduler_->blocks().num_blocks();
  counters_.blocks_used = scheduler_->blocks().num_used();
  counters_.prompt_tokens = scheduled.prompt_tokens;
  counters_.generated_tokens = scheduled.generated_tokens;
  counters_.preemptions = scheduled.preemptions;
  counters_.prefix_cache_queries = scheduled.prefix_cache_queries;
  counters_.prefix_cache_hits = scheduled.prefix_cache_hits;
  counters_.nonfinite_rows = scheduled.nonfinite_rows;
  const int64_t now_ns = NowNs();

  const std::lock_guard lock(mu_);
  if (counters_.steps != stats_.steps) step_deadline_.Observe(counters_.last_step_seconds);
  for (const Scheduler::Event& event : scheduler_->events()) {
    if (!event.request_done) continue;
    const auto live = live_.find(event.event.request);
    if (live == live_.end()) continue;
    counters_.request_seconds += static_cast<double>(now_ns - live->second) / 1e9;
    live_.erase(live);
  }
  stats_ = counters_;
  for (const RequestId id : scheduler_->departures()) queue_.Remove(id);
  scheduler_->departures().clear();
  drain_rate_.Update(now_ns, scheduled.queue_departures, queue_.num_requests());
}

void LocalEngine::DeliverEvents() {
  for (Scheduler::Event& event : scheduler_->events()) {
    SinkSlot& slot = sinks_[event.owner];
    if (slot.events.empty()) touched_slots_.push_back(event.owner);
    slot.events.push_back(std::move(event.event));
    if (event.request_done) --slot.num_requests;
  }
  scheduler_->events().clear();
  for (const uint32_t index : touched_slots_) {
    SinkSlot& slot = sinks_[index];
    slot.sink->OnEvents(std::exchange(slot.events, {}));
    if (slot.num_requests > 0) continue;
    slots_.erase(slot.sink.get());
    slot.sink.reset();
    free_slots_.push_back(index);
  }
  touched_slots_.clear();
}

// What the executor did not count since the last account is the host's. (With a step more under way it is what the
// device waited for the host: the executor's times may begin before this account does, and end before it ends.)
void LocalEngine::CloseAccount() {
  if (!open_account_.has_value()) return;
  const int64_t now_ns = NowNs();
  StepTimes times = open_account_->times;
  times[StepPhase::kHost] += now_ns - accounted_ns_ - times.total_ns();
  const StepInFlight& step = open_account_->step;
  const StepRecord record{.step = step.step,
                          .begin_ns = accounted_ns_,
                          .num_tokens = step.num_tokens,
                          .num_sequences = step.num_sequences,
                          .times = times,
                          .demand = open_account_->demand};
  accounted_ns_ = now_ns;
  counters_.step_account.Add(times, record.demand, 1);
  counters_.request_account.Add(times, record.demand, record.num_sequences);
  open_account_.reset();
  const std::lock_guard lock(mu_);
  stats_.step_account = counters_.step_account;
  stats_.request_account = counters_.request_account;
  step_ring_.Add(record);
}

uint32_t LocalEngine::SlotOf(std::shared_ptr<TokenSink> sink) {
  const auto [entry, is_new] = slots_.try_emplace(sink.get(), static_cast<uint32_t>(sinks_.size()));
  if (!is_new) return entry->second;
  if (free_slots_.empty()) {
    sinks_.emplace_back();
  } else {
    entry->second = free_slots_.back();
    free_slots_.pop_back();
  }
  sinks_[entry->second].sink = std::move(sink);
  return entry->second;
}

absl::Status LocalEngine::Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) {
  OPTSERVE_RETURN_IF_ERROR(CheckRequest(request, model_));
  {
    const std::lock_guard lock(mu_);
    if (!health_.ok()) return health_;
    if (draining_ || stopping_) return ShuttingDown();
    if (!request.admitted) OPTSERVE_RETURN_IF_ERROR(CheckQueue(request));
    const int64_t now_ns = NowNs();
    if (!live_.emplace(request.id, now_ns).second) return InvalidArgument("request id {} is in use", request.id);
    queue_.Add(request);
    inbox_.push_back(SubmitCommand{.request = std::move(request), .sink = std::move(sink), .submitted_ns = now_ns});
  }
  wake_.notify_one();
  return absl::OkStatus();
}

absl::Status LocalEngine::CheckQueue(const GenerateRequest& request) const {
  const absl::Status status = queue_.Check(request, std::max(config_.max_num_seqs - stats_.running, 0));
  if (status.ok()) return status;
  return WithRetryAfter(status, drain_rate_.SecondsToDrain(NowNs(), queue_.num_requests()));
}

void LocalEngine::Cancel(RequestId id) { EnqueueCancel({.id = id}); }

void LocalEngine::CancelChoice(RequestId id, int32_t choice) { EnqueueCancel({.id = id, .choice = choice}); }

void LocalEngine::EnqueueCancel(CancelCommand command) {
  {
    const std::lock_guard lock(mu_);
    if (!live_.contains(command.id)) return;
    inbox_.emplace_back(command);
  }
  wake_.notify_one();
}

void LocalEngine::Drain() {
  const std::lock_guard lock(mu_);
  draining_ = true;
}

EngineStats LocalEngine::Stats() const {
  const std::lock_guard lock(mu_);
  return stats_;
}

std::vector<StepRecord> LocalEngine::RecentSteps(uint64_t after) const {
  const std::lock_guard lock(mu_);
  return step_ring_.Since(after);
}

absl::Status LocalEngine::Health() const {
  const std::lock_guard lock(mu_);
  if (!health_.ok()) return health_;
  if (const absl::Status ranks = executor_->Health(); !ranks.ok()) return Death(std::string(ranks.message()));
  if (step_start_ns_ == 0) return health_;
  const double seconds = static_cast<double>(NowNs() - step_start_ns_) / 1e9;
  if (seconds <= step_deadline_.seconds()) return health_;
  return Death(
      fmt::format("a step has not ended for {:.1f} s: the others wait for {}", seconds, executor_->WhoIsBehind()));
}

}  // namespace optserve
