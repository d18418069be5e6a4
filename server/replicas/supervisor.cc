#include "server/replicas/supervisor.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/util/status.h"
#include "server/replicas/supervisor_errors.h"

// The supervisor's engines: starting, watching and replacing them. supervisor_requests.cc has the requests.

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kTick{100};
constexpr std::chrono::minutes kDeathMemory{10};

// A watcher that has not looked for so long was itself held back, and so may have been the frames.
constexpr seconds kLateTick{2};

// Beyond the engine's own deadline, by which it can say which rank hangs.
constexpr seconds kWatchGrace{2};

// Between the tries of an engine that dies before it serves: what is missing may be back by then.
constexpr milliseconds kRetryDelay{500};

double Seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Counters of `from` are added, its gauges too unless it is no more.
void AddTo(EngineStats& to, const EngineStats& from, bool is_alive) {
  to.steps += from.steps;
  to.prompt_tokens += from.prompt_tokens;
  to.generated_tokens += from.generated_tokens;
  to.preemptions += from.preemptions;
  to.prefix_cache_queries += from.prefix_cache_queries;
  to.prefix_cache_hits += from.prefix_cache_hits;
  to.nonfinite_rows += from.nonfinite_rows;
  to.step_seconds += from.step_seconds;
  to.step_account.Add(from.step_account);
  to.request_account.Add(from.request_account);
  to.request_seconds += from.request_seconds;
  if (!is_alive) return;
  to.running += from.running;
  to.waiting += from.waiting;
  to.blocks_total += from.blocks_total;
  to.blocks_used += from.blocks_used;
  to.last_step_seconds = from.last_step_seconds;
  to.last_step_tokens = from.last_step_tokens;
}

}  // namespace

// The one sink of all requests of an engine, so that a step is one call.
class Supervisor::ReplicaSink : public TokenSink {
 public:
  ReplicaSink(Supervisor& supervisor, size_t index) : supervisor_(supervisor), index_(index) {}
  void OnEvents(std::vector<TokenEvent> events) override { supervisor_.OnEvents(index_, std::move(events)); }

 private:
  Supervisor& supervisor_;
  const size_t index_;
};

Supervisor::Supervisor(Options options)
    : options_(std::move(options)),
      replicas_(static_cast<size_t>(options_.num_replicas)),
      router_(options_.num_replicas) {
  thread_ = std::thread([this] { Run(); });
}

Supervisor::~Supervisor() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
    Wake();
  }
  thread_.join();
}

// --- what the front end asks -----------------------------------------------------------------------------------------

EngineStats Supervisor::Stats() const {
  const std::lock_guard lock(mu_);
  EngineStats stats;
  for (const Replica& replica : replicas_) {
    AddTo(stats, replica.retired, /*is_alive=*/false);
    if (replica.process != nullptr) AddTo(stats, replica.process->Stats(), /*is_alive=*/true);
  }
  for (const auto& [arrival, live] : parked_) stats.waiting += live->num_unfinished;
  return stats;
}

std::vector<StepRecord> Supervisor::RecentSteps(uint64_t after) const {
  const std::lock_guard lock(mu_);
  std::vector<StepRecord> steps;
  for (size_t i = 0; i < replicas_.size(); ++i) {
    if (replicas_[i].process == nullptr) continue;
    for (StepRecord& record : replicas_[i].process->RecentSteps(after)) {
      record.replica = static_cast<int32_t>(i);
      steps.push_back(record);
    }
  }
  return steps;
}

absl::Status Supervisor::Health() const {
  const std::lock_guard lock(mu_);
  return HealthLocked();
}

absl::Status Supervisor::HealthLocked() const {
  if (!failure_.ok()) return failure_;
  if (!is_start_reported_) return absl::OkStatus();  // who asks knows that it loads
  for (const Replica& replica : replicas_) {
    if (replica.state == Replica::kServing) return absl::OkStatus();
  }
  return WithCode(Unavailable("{}; it is being replaced, requests wait",
                              last_death_.ok() ? "the engine has ended" : std::string(last_death_.message())),
                  "engine_restarting");
}

std::vector<pid_t> Supervisor::pids() const {
  const std::lock_guard lock(mu_);
  std::vector<pid_t> pids;
  for (const Replica& replica : replicas_) {
    if (replica.process != nullptr) pids.push_back(replica.process->pid());
  }
  return pids;
}

void Supervisor::Wake() {
  has_news_ = true;
  changed_.notify_one();
}

// --- what the engines say --------------------------------------------------------------------------------------------

void Supervisor::OnAnswer(size_t index, const TokenEvent& event) {
  Replica& replica = replicas_[index];
  // At the end the process may be on its way out already, and answers that it has lost its engine or is closing.
  if (event.finish == FinishReason::kNone || replica.state != Replica::kAsked || stopping_) return;
  if (!event.error.ok()) {
    if (!IsEngineDeath(event.error)) replica.process->Kill("failed at the first question: " + event.error.ToString());
    return;  // it is known by its death
  }
  replica.state = Replica::kServing;
  replica.has_answered = true;
  const double load_seconds = Seconds(Clock::now() - replica.start);
  if (options_.log != nullptr && replica.generation > 1) {
    options_.log->Info("engine_replaced", {{"replica", index},
                                           {"generation", replica.generation},
                                           {"pid", replica.process->pid()},
                                           {"seconds", load_seconds},
                                           {"requests_waiting", parked_.size()}});
  }
  Wake();
}

// --- the supervisor's thread -----------------------------------------------------------------------------------------

void Supervisor::Run() {
  Clock::time_point last_look = Clock::now();
  const auto num_replicas = static_cast<size_t>(options_.num_replicas);
  while (true) {
    {
      std::unique_lock lock(mu_);
      const milliseconds tick = replicas_[0].generation == 0 ? milliseconds(0) : kTick;
      changed_.wait_for(lock, tick, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return has_news_ || stopping_; });
      if (stopping_) break;
      has_news_ = false;
      const Clock::time_point now = Clock::now();
      if (now - std::exchange(last_look, now) > kLateTick) {
        for (Replica& replica : replicas_) replica.watched_from = now;
      }
    }
    for (size_t i = 0; i < num_replicas; ++i) {
      std::vector<absl::Status> started;
      std::vector<absl::Status> died;
      {
        const std::lock_guard lock(mu_);
        started.swap(replicas_[i].started);
        died.swap(replicas_[i].died);
      }
      for (const absl::Status& status : started) OnStarted(i, status);
      for (const absl::Status& why : died) OnDeath(i, why);
      bool is_due = false;
      {
        const std::lock_guard lock(mu_);
        is_due = replicas_[i].state == Replica::kGone && Clock::now() >= replicas_[i].start_at;
      }
      if (is_due) StartProcess(i);
    }
    Watch(Clock::now());
    TendParked();
    bool have_all_answered = false;
    {
      const std::lock_guard lock(mu_);
      have_all_answered = std::ranges::all_of(replicas_, &Replica::has_answered);
    }
    if (have_all_answered) ReportStart(absl::OkStatus());
  }
  std::vector<std::unique_ptr<EngineProcess>> processes;
  {
    const std::lock_guard lock(mu_);
    for (Replica& replica : replicas_) processes.push_back(std::move(replica.process));
  }
  processes.clear();  // their last events come meanwhile
  EndAll(ShuttingDown());
}

void Supervisor::StartProcess(size_t index) {
  EngineProcess::Options options = {.config = options_.config, .arguments = options_.arguments};
  options.is_group = options_.engine_is_group;
  options.replica = static_cast<int32_t>(index);
  options.config.engines_on_machine = options_.num_replicas;
  options.config.first_device = options.replica * options_.config.tensor_parallel_size;
  options.metrics = options_.metrics;
  options.progress = [this, index](int64_t done, int64_t total) {
    std::pair<int64_t, int64_t> sum;
    {
      const std::lock_guard lock(mu_);
      replicas_[index].progress = {done, total};
      for (const Replica& replica : replicas_) {
        sum.first += replica.progress.first;
        sum.second += replica.progress.second;
      }
      if (is_start_reported_) return;
    }
    if (options_.progress) options_.progress(sum.first, sum.second);
  };
  options.on_started = [this, index](const absl::Status& status) {
    const std::lock_guard lock(mu_);
    replicas_[index].started.push_back(status);
    Wake();
  };
  options.on_death = [this, index](const absl::Status& why) {
    const std::lock_guard lock(mu_);
    replicas_[index].died.push_back(why);
    Wake();
  };
  {
    const std::lock_guard lock(mu_);
    options.generation = ++replicas_[index].generation;
    replicas_[index].state = Replica::kLoading;
    replicas_[index].is_death_explained = false;
    replicas_[index].start = Clock::now();
    replicas_[index].sink = std::make_shared<ReplicaSink>(*this, index);
    if (options.generation > 1 && options_.metrics != nullptr) options_.metrics->CountEngineRestart();
  }
  absl::StatusOr<std::unique_ptr<EngineProcess>> process = EngineProcess::Start(std::move(options));
  const std::lock_guard lock(mu_);
  if (!process.ok()) {
    replicas_[index].started.push_back(process.status());
    return Wake();
  }
  replicas_[index].process = std::move(process).value();
}

void Supervisor::OnStarted(size_t index, const absl::Status& status) {
  if (!status.ok()) return OnDeath(index, status);
  const std::lock_guard lock(mu_);
  Replica& replica = replicas_[index];
  if (!is_start_reported_) {
    model_ = replica.process->model();
  }
  Ask(replica);
}

// One token of a prompt of one: an engine that cannot do that is no replacement.
void Supervisor::Ask(Replica& replica) {
  replica.state = Replica::kAsked;
  replica.watched_from = Clock::now();
  replica.question = next_part_++;
  GenerateRequest question = {.id = replica.question, .prompt = {model_.bos_token_id}, .max_tokens = 1};
  question.sampling.temperature = 0;
  // Refused only by a process that has died, which is known by its death.
  (void)replica.process->Submit(std::move(question), replica.sink);
}

void Supervisor::OnDeath(size_t index, const absl::Status& why) {
  ReportStart(why);  // it cannot be replaced by what has never worked
  std::unique_ptr<EngineProcess> process;
  bool is_over = false;
  {
    const std::lock_guard lock(mu_);
    Replica& replica = replicas_[index];
    process = std::move(replica.process);
    if (process != nullptr) AddTo(replica.retired, process->Stats(), /*is_alive=*/false);
    replica.question = 0;
    router_.Forget(static_cast<int32_t>(index));
    const Clock::time_point now = Clock::now();
    std::erase_if(replica.deaths, [now](Clock::time_point death) { return now - death > kDeathMemory; });
    if (replica.is_death_explained) {
      replica.deaths.clear();
    } else {
      replica.deaths.push_back(now);
    }
    const bool has_served = replica.state == Replica::kServing || replica.state == Replica::kDying;
    replica.start_at = has_served ? now : now + kRetryDelay * std::ssize(replica.deaths);
    is_over = std::ssize(replica.deaths) >= options_.max_deaths || !failure_.ok();
    replica.state = is_over ? Replica::kGivenUp : Replica::kGone;
    last_death_ = process != nullptr && !process->Health().ok() ? process->Health() : why;
    if (options_.log != nullptr && failure_.ok()) {
      options_.log->Error("engine_died", {{"replica", index},
                                          {"generation", replica.generation},
                                          {"why", std::string(why.message())},
                                          {"deaths", replica.deaths.size()},
                                          {"requests_waiting", parked_.size()}});
    }
  }
  process.reset();
  if (!is_over) return;
  bool is_anybody_left = false;
  {
    const std::lock_guard lock(mu_);
    is_anybody_left =
        std::ranges::any_of(replicas_, [](const Replica& replica) { return replica.state != Replica::kGivenUp; });
    if (options_.log != nullptr && failure_.ok()) options_.log->Error("engine_given_up", {{"replica", index}});
  }
  if (!is_anybody_left) GiveUp(why);
}

void Supervisor::Watch(Clock::time_point now) {
  const std::lock_guard lock(mu_);
  for (Replica& replica : replicas_) {
    if (replica.process == nullptr) continue;
    const EngineProcess::Pulse pulse = replica.process->pulse();
    if (replica.state == Replica::kLoading) {
      // Frames are bytes read, so far.
      const Clock::duration pause = now - std::max(pulse.last_frame, replica.watched_from);
      if (pause > seconds(options_.load_timeout_seconds)) {
        replica.process->Kill(fmt::format("made no progress for {:.1f} s", Seconds(pause)));
      }
      continue;
    }
    if (replica.state != Replica::kAsked && replica.state != Replica::kServing) continue;
    const Clock::duration silence = now - std::max(pulse.last_frame, replica.watched_from);
    if (silence > seconds(options_.config.step_timeout_seconds)) {
      replica.process->Kill(fmt::format("gave no sign of life for {:.1f} s", Seconds(silence)));
      continue;
    }
    const Clock::duration step = now - std::max(pulse.last_step, replica.watched_from);
    if (pulse.has_work && Seconds(step - kWatchGrace) > pulse.step_limit_seconds) {
      replica.process->Kill(fmt::format("made no step for {:.1f} s", Seconds(step)));
    }
  }
}

void Supervisor::GiveUp(const absl::Status& why) {
  const absl::Status failure =
      WithCode(Unavailable("the engine has died {} times within ten minutes and is given up", options_.max_deaths),
               "engine_dead");
  {
    const std::lock_guard lock(mu_);
    if (!failure_.ok()) return;
    failure_ = failure;
  }
  EndAll(failure);
  if (options_.on_given_up) options_.on_given_up(why);
}

void Supervisor::ReportStart(const absl::Status& status) {
  {
    const std::lock_guard lock(mu_);
    if (std::exchange(is_start_reported_, true)) return;
    if (!status.ok()) failure_ = status;
  }
  if (options_.on_started) options_.on_started(status);
}

}  // namespace optserve
