#include "engine/process_main.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/process_frames.h"
#include "engine/util/fault_injection.h"
#include "engine/util/frame_channel.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

using LoadedEngine = absl::StatusOr<std::unique_ptr<EngineClient>>;

// What may wait for a front end that does not read. At the limit the engine waits too: a step's frame is some tens of
// KiB, so this is many seconds of steps.
constexpr size_t kMaxQueuedBytes = 64u << 20;
constexpr std::chrono::seconds kMaxStall{30};

// Counters go up with every step, soon after it (it may free blocks when its events are out), and as a sign of life.
constexpr milliseconds kStatsDelay{20};
constexpr milliseconds kStatsPeriod{250};  // well below the shortest --step-timeout, 1 s

constexpr milliseconds kProgressPeriod{50};

void Send(FrameChannel& channel, const internal::FromEngine& frame) { channel.Send(frame.SerializeAsString()); }

// Why this process ends. What the engine says afterwards, of the requests that it drops, reaches nobody: the front end
// gives them to another engine.
void SendLastWords(FrameChannel& channel, const absl::Status& why) {
  internal::FromEngine frame;
  ToProto(why, frame.mutable_death());
  Send(channel, frame);
  channel.Flush();
  channel.Shutdown();
}

// The way up. The one sink of all requests: a step is one frame. Beside it a thread that sends the counters between
// steps and, last, why the engine died.
class Reporter : public TokenSink {
 public:
  Reporter(FrameChannel& channel, EngineClient& engine) : channel_(channel), engine_(engine) {}

  // On the engine's thread: waits for a front end that does not read, but not for ever.
  void OnEvents(std::vector<TokenEvent> events) override {
    internal::FromEngine frame;
    for (const TokenEvent& event : events) ToProto(event, frame.mutable_events()->add_events());
    if (!channel_.WaitForRoom(kMaxQueuedBytes, kMaxStall)) channel_.Shutdown();  // it is as good as gone
    {
      const std::lock_guard lock(mu_);
      ReadCounters(*frame.mutable_events()->mutable_stats());
      Send(channel_, frame);
      stepped_ = true;
    }
    changed_.notify_one();
  }

  // Until Stop, or until the engine has died and the channel is shut down.
  void Run() {
    std::unique_lock lock(mu_);
    const auto stopping = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; };
    const auto stepped = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stepped_ || stopping_; };
    while (true) {
      changed_.wait_for(lock, kStatsPeriod, stepped);
      if (changed_.wait_for(lock, kStatsDelay, stopping)) return;
      stepped_ = false;
      if (const absl::Status health = engine_.Health(); !health.ok()) return SendLastWords(channel_, health);
      internal::FromEngine frame;
      ReadCounters(*frame.mutable_stats());
      Send(channel_, frame);
    }
  }

  void Stop() {
    {
      const std::lock_guard lock(mu_);
      stopping_ = true;
    }
    changed_.notify_one();
  }

 private:
  // And the records of the steps since the last time.
  void ReadCounters(internal::EngineStats& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ToProto(engine_.Stats(), &frame);
    for (const StepRecord& record : engine_.RecentSteps(last_step_sent_)) {
      ToProto(record, frame.add_new_steps());
      last_step_sent_ = record.step;
    }
  }

  FrameChannel& channel_;
  EngineClient& engine_;
  std::mutex mu_;  // held from reading the counters to sending them, so that they arrive in order
  std::condition_variable changed_;
  bool stepped_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t last_step_sent_ ABSL_GUARDED_BY(mu_) = 0;
};

// A frame for every few of the calls, and for the last.
LoadProgress ThrottledProgress(FrameChannel& channel) {
  struct State {
    std::mutex mu;
    steady_clock::time_point last;
  };
  return [&channel, state = std::make_shared<State>()](int64_t done_bytes, int64_t total_bytes) {
    const std::lock_guard lock(state->mu);
    const steady_clock::time_point now = steady_clock::now();
    if (now - state->last < kProgressPeriod && done_bytes < total_bytes) return;
    state->last = now;
    internal::FromEngine frame;
    frame.mutable_load_progress()->set_done_bytes(done_bytes);
    frame.mutable_load_progress()->set_total_bytes(total_bytes);
    Send(channel, frame);
  };
}

LoadedEngine Load(FrameChannel& channel, const internal::ToEngine& first, const EngineStarter& start) {
  if (!first.has_start()) return Internal("the engine process was not told what to start");
  OPTSERVE_ASSIGN_OR_RETURN(const EngineConfig config, ParseEngineConfig(first.start().engine_config_json()));
  SetFaultScope(first.start().replica(), first.start().generation());
  for (const InjectedFault& fault : FaultsDue(/*step=*/0, /*rank=*/0)) OPTSERVE_RETURN_IF_ERROR(CommitFault(fault));
  return start(config, ThrottledProgress(channel));
}

void SendOutcome(FrameChannel& channel, const LoadedEngine& engine) {
  internal::FromEngine frame;
  if (engine.ok()) {
    ToProto((*engine)->model(), frame.mutable_ready()->mutable_model());
    ToProto((*engine)->Stats(), frame.mutable_ready()->mutable_stats());
  } else {
    ToProto(engine.status(), frame.mutable_start_failed());
  }
  Send(channel, frame);
}

void Submit(const internal::GenerateRequest& frame, EngineClient& engine, const std::shared_ptr<TokenSink>& sink) {
  GenerateRequest request = FromProto(frame);
  const RequestId id = request.id;
  const int32_t num_choices = request.num_choices;
  const absl::Status status = engine.Submit(std::move(request), sink);
  if (status.ok()) return;
  std::vector<TokenEvent> events;
  for (int32_t choice = 0; choice < num_choices; ++choice) {
    events.push_back({.request = id, .choice = choice, .finish = FinishReason::kError, .error = status});
  }
  sink->OnEvents(std::move(events));
}

absl::StatusOr<internal::ToEngine> Receive(FrameChannel& channel) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string bytes, channel.Receive());
  internal::ToEngine frame;
  if (!frame.ParseFromString(bytes)) return Internal("the front end sent a frame that cannot be read");
  return frame;
}

void Handle(const internal::ToEngine& frame, EngineClient& engine, const std::shared_ptr<TokenSink>& sink) {
  switch (frame.frame_case()) {
    case internal::ToEngine::kSubmit:
      return Submit(frame.submit(), engine, sink);
    case internal::ToEngine::kCancel:
      if (!frame.cancel().has_choice()) return engine.Cancel(frame.cancel().request());
      return engine.CancelChoice(frame.cancel().request(), frame.cancel().choice());
    case internal::ToEngine::kDrain:
      return engine.Drain();
    case internal::ToEngine::kStart:
    case internal::ToEngine::FRAME_NOT_SET:
      return;  // a front end of this binary sends neither
  }
}

}  // namespace

int RunEngineProcess(int fd, const EngineStarter& start, int parent_death_signal) {
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, parent_death_signal);

  FrameChannel channel(fd);
  const absl::StatusOr<internal::ToEngine> first = Receive(channel);
  if (!first.ok()) return 0;

  // On a thread of its own, so that a front end that goes is noticed during a load of minutes.
  std::atomic<bool> loaded = false;
  std::future<LoadedEngine> loading = std::async(std::launch::async, [&] {
    LoadedEngine engine = Load(channel, *first, start);
    loaded = true;
    SendOutcome(channel, engine);
    if (!engine.ok()) {
      channel.Flush();
      channel.Shutdown();
    }
    return engine;
  });
  // The front end sends nothing before it was told that the engine is ready.
  absl::StatusOr<internal::ToEngine> frame = Receive(channel);
  if (!frame.ok() && !loaded) _exit(0);  // a load cannot be stopped half-way
  const LoadedEngine engine = loading.get();
  if (!engine.ok()) return 1;

  const auto reporter = std::make_shared<Reporter>(channel, **engine);
  std::thread reporting([&] { reporter->Run(); });
  for (; frame.ok(); frame = Receive(channel)) Handle(*frame, **engine, reporter);
  // Usually the front end has gone, and hears nothing of this.
  SendLastWords(channel, Within("the engine process does not hear the front end", frame.status()));
  reporter->Stop();
  reporting.join();
  if (!(*engine)->Health().ok()) {
    channel.Close();
    _exit(1);  // the engine's threads may never end
  }
  return 0;
}

}  // namespace optserve
