#include "server/replicas/engine_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "engine/process_frames.h"
#include "engine/process_group.h"
#include "engine/util/error_details.h"
#include "engine/util/status.h"

namespace optserve {
namespace {

constexpr int kChildSocket = 3;  // the first descriptor after standard error
constexpr int kEndTimeoutMs = 2000;
constexpr int kGroupEndTimeoutMs = 10000;
constexpr int kRetryAfterSeconds = 5;

// Requests that wait for an engine process that does not read; its reader only moves them to a queue.
constexpr size_t kMaxQueuedBytes = 256u << 20;

std::string ErrnoText(int error) { return strerror(error); }  // NOLINT: glibc's is thread-safe since 2.32

absl::Status WithCode(absl::Status status, std::string_view code) {
  return WithRetryAfter(WithErrorCode(std::move(status), code), kRetryAfterSeconds);
}

// Runs this program again with `arguments --fd 3`: `socket` as descriptor 3, standard error as it is, standard input
// empty, standard output (ours is for the ready line) joined to standard error, no other descriptor, default signals.
absl::StatusOr<pid_t> Spawn(std::vector<std::string> arguments, int socket) {
  arguments.insert(arguments.begin(), "optserve");
  arguments.insert(arguments.end(), {"--fd", std::to_string(kChildSocket)});
  std::vector<char*> argv;
  for (std::string& word : arguments) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, socket, kChildSocket);
  posix_spawn_file_actions_addclosefrom_np(&files, kChildSocket + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  pid_t pid = 0;
  const int error = posix_spawn(&pid, "/proc/self/exe", &files, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return Internal("cannot start the engine process: {}", ErrnoText(error));
  return pid;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineProcess>> EngineProcess::Start(Options options) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return Internal("cannot make a socket for the engine process: {}", ErrnoText(errno));
  }
  const absl::StatusOr<pid_t> pid = Spawn(options.arguments, sockets[1]);
  close(sockets[1]);
  if (!pid.ok()) {
    close(sockets[0]);
    return pid.status();
  }
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, *pid, 0));
  return std::unique_ptr<EngineProcess>(new EngineProcess(std::move(options), *pid, pidfd, sockets[0]));
}

EngineProcess::EngineProcess(Options options, pid_t pid, int pidfd, int socket)
    : options_(std::move(options)),
      pid_(pid),
      pidfd_(pidfd),
      channel_(socket),
      last_frame_(std::chrono::steady_clock::now()),
      last_step_(last_frame_),
      step_deadline_(options_.config.step_timeout_seconds) {
  internal::ToEngine frame;
  frame.mutable_start()->set_replica(options_.replica);
  frame.mutable_start()->set_generation(options_.generation);
  frame.mutable_start()->set_engine_config_json(EngineConfigToJson(options_.config));
  channel_.Send(frame.SerializeAsString());
  reader_ = std::thread([this] { ReadLoop(); });
}

EngineProcess::~EngineProcess() {
  {
    const std::lock_guard lock(mu_);
    closing_ = true;
  }
  channel_.Shutdown();
  reader_.join();
  if (pidfd_ >= 0) close(pidfd_);
}

absl::Status EngineProcess::Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) {
  if (const absl::Status status = CheckRequest(request, model_); !status.ok()) return status;
  if (!channel_.WaitForRoom(kMaxQueuedBytes, std::chrono::milliseconds(0))) {
    return ResourceExhausted("the engine does not take requests at the moment");
  }
  internal::ToEngine frame;
  ToProto(request, frame.mutable_submit());
  std::string bytes = frame.SerializeAsString();

  const std::lock_guard lock(mu_);
  if (!health_.ok()) return health_;
  if (state_ == State::kDraining) return WithCode(Unavailable("the server is shutting down"), "shutting_down");
  Live live = {.sink = std::move(sink),
               .finished = std::vector<bool>(static_cast<size_t>(request.num_choices)),
               .num_unfinished = request.num_choices};
  if (live_.empty()) last_step_ = std::chrono::steady_clock::now();
  live_.emplace(request.id, std::move(live));
  channel_.Send(std::move(bytes));  // under the lock: a Cancel of this id comes after it
  return absl::OkStatus();
}

void EngineProcess::Cancel(RequestId id) {
  internal::ToEngine frame;
  frame.mutable_cancel()->set_request(id);
  channel_.Send(frame.SerializeAsString());
}

void EngineProcess::CancelChoice(RequestId id, int32_t choice) {
  internal::ToEngine frame;
  frame.mutable_cancel()->set_request(id);
  frame.mutable_cancel()->set_choice(choice);
  channel_.Send(frame.SerializeAsString());
}

void EngineProcess::Drain() {
  const std::lock_guard lock(mu_);
  if (state_ == State::kServing) state_ = State::kDraining;  // nobody else submits: the engine need not know
}

EngineStats EngineProcess::Stats() const {
  const std::lock_guard lock(mu_);
  return stats_;
}

std::vector<StepRecord> EngineProcess::RecentSteps(uint64_t after) const {
  const std::lock_guard lock(mu_);
  return step_ring_.Since(after);
}

absl::Status EngineProcess::Health() const {
  const std::lock_guard lock(mu_);
  return health_;
}

EngineProcess::Pulse EngineProcess::pulse() const {
  const std::lock_guard lock(mu_);
  return {.last_frame = last_frame_,
          .last_step = last_step_,
          .has_work = !live_.empty(),
          .step_limit_seconds = step_deadline_.seconds()};
}

void EngineProcess::Kill(std::string_view why) {
  {
    const std::lock_guard lock(mu_);
    if (state_ == State::kEnded || !killed_because_.empty()) return;
    killed_because_ = why;
  }
  // Not by its number, which another process may have once it is reaped.
  if (pidfd_ >= 0) syscall(SYS_pidfd_send_signal, pidfd_, options_.is_group ? kEndGroupSignal : SIGKILL, nullptr, 0);
  channel_.Shutdown();
}

void EngineProcess::ReadLoop() {
  while (true) {
    const absl::StatusOr<std::string> bytes = channel_.Receive();
    internal::FromEngine frame;
    if (!bytes.ok() || !frame.ParseFromString(*bytes)) break;
    {
      const std::lock_guard lock(mu_);
      last_frame_ = std::chrono::steady_clock::now();
    }
    switch (frame.frame_case()) {
      case internal::FromEngine::kLoadProgress:
        if (options_.progress)
          options_.progress(frame.load_progress().done_bytes(), frame.load_progress().total_bytes());
        break;
      case internal::FromEngine::kReady:
        model_ = FromProto(frame.ready().model());
        OnStats(frame.ready().stats());
        OnStarted(absl::OkStatus());
        break;
      case internal::FromEngine::kStartFailed:
        OnStarted(FromProto(frame.start_failed()));
        break;
      case internal::FromEngine::kEvents:
        OnStats(frame.events().stats());
        OnEvents(frame.events());
        break;
      case internal::FromEngine::kStats:
        OnStats(frame.stats());
        break;
      case internal::FromEngine::kDeath:
        last_words_ = FromProto(frame.death());
        break;
      case internal::FromEngine::FRAME_NOT_SET:
        break;
    }
  }
  OnEnd();
}

void EngineProcess::OnStarted(const absl::Status& status) {
  {
    const std::lock_guard lock(mu_);
    state_ = status.ok() ? State::kServing : State::kEnded;
    health_ = status;
  }
  if (options_.on_started) options_.on_started(status);
}

// Steps without events of their own arrive together with a later one: observed as equal shares of their sum.
void EngineProcess::OnStats(const internal::EngineStats& frame) {
  const EngineStats stats = FromProto(frame);
  const std::lock_guard lock(mu_);
  const EngineStats before = std::exchange(stats_, stats);
  for (const internal::StepRecord& record : frame.new_steps()) {
    step_ring_.Add(FromProto(record));
  }
  if (stats.steps <= before.steps) return;
  const uint64_t steps = stats.steps - before.steps;
  const double seconds = (stats.step_seconds - before.step_seconds) / static_cast<double>(steps);
  last_step_ = std::chrono::steady_clock::now();
  step_deadline_.Observe(seconds);
  if (options_.metrics == nullptr) return;
  const uint64_t tokens =
      (stats.prompt_tokens + stats.generated_tokens - before.prompt_tokens - before.generated_tokens) / steps;
  for (uint64_t i = 0; i < steps; ++i) {
    options_.metrics->ObserveStep(seconds, steps == 1 ? stats.last_step_tokens : static_cast<int32_t>(tokens));
  }
}

void EngineProcess::OnEvents(const internal::Events& frame) {
  // Few sinks share a step, usually one for each request.
  std::vector<std::pair<std::shared_ptr<TokenSink>, std::vector<TokenEvent>>> deliveries;
  std::unordered_map<TokenSink*, size_t> delivery_of;
  {
    const std::lock_guard lock(mu_);
    for (const internal::TokenEvent& event : frame.events()) {
      const auto it = live_.find(event.request());
      if (it == live_.end()) continue;
      Live& live = it->second;
      const size_t choice = static_cast<size_t>(event.choice());
      if (choice >= live.finished.size() || live.finished[choice]) continue;
      const auto [entry, is_new] = delivery_of.try_emplace(live.sink.get(), deliveries.size());
      if (is_new) deliveries.emplace_back(live.sink, std::vector<TokenEvent>());
      deliveries[entry->second].second.push_back(FromProto(event));
      if (deliveries[entry->second].second.back().finish == FinishReason::kNone) continue;
      live.finished[choice] = true;
      if (--live.num_unfinished == 0) live_.erase(it);
    }
  }
  for (auto& [sink, events] : deliveries) sink->OnEvents(std::move(events));
}

void EngineProcess::OnEnd() {
  channel_.Shutdown();  // if it is we who cannot hear it any more, this is how it knows
  std::string how = Reap();
  State before = State::kEnded;
  bool closing = false;
  absl::Status health;
  std::unordered_map<RequestId, Live> live;
  {
    const std::lock_guard lock(mu_);
    before = std::exchange(state_, State::kEnded);
    closing = closing_;
    if (!killed_because_.empty()) how = killed_because_ + " and was killed";
    if (health_.ok()) {
      health_ = closing ? WithCode(Unavailable("the server has stopped"), "shutting_down")
                        : WithCode(Unavailable("the engine process {}", how), "engine_dead");
    }
    health = health_;
    live.swap(live_);
    stats_.running = 0;
    stats_.waiting = 0;
    stats_.blocks_used = 0;
  }
  for (auto& [id, request] : live) {
    std::vector<TokenEvent> events;
    for (size_t choice = 0; choice < request.finished.size(); ++choice) {
      if (request.finished[choice]) continue;
      events.push_back(
          {.request = id, .choice = static_cast<int32_t>(choice), .finish = FinishReason::kError, .error = health});
    }
    request.sink->OnEvents(std::move(events));
  }
  if (closing || before == State::kEnded) return;
  if (before == State::kLoading) {
    return OnStarted(last_words_.ok() ? Internal("the engine process {} while it loaded the model", how) : last_words_);
  }
  if (options_.on_death) options_.on_death(last_words_.ok() ? health : last_words_);
}

// Waits for the process to end, which it does at the end of its socket; kills it if it does not. Returns how it ended,
// to be read after "the engine process".
std::string EngineProcess::Reap() {
  pollfd ended = {.fd = pidfd_, .events = POLLIN, .revents = 0};
  if (poll(&ended, 1, options_.is_group ? kGroupEndTimeoutMs : kEndTimeoutMs) != 1) kill(pid_, SIGKILL);
  siginfo_t info = {};
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED) != 0 && errno == EINTR) {
  }
  if (info.si_code == CLD_EXITED) return fmt::format("ended with exit code {}", info.si_status);
  return fmt::format("was killed by signal {} ({})", info.si_status, sigdescr_np(info.si_status));
}

}  // namespace optserve
