#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/engine_client.h"
#include "engine/util/frame_channel.h"
#include "engine/util/metrics.h"
#include "engine/util/step_deadline.h"
#include "engine/util/step_records.h"
#include "optserve/internal/engine.pb.h"

namespace optserve {

// An engine in a process of its own, as the front end sees it: the other end of engine/process_main.h, across a
// socketpair that the child inherits. The child gets no other descriptor of ours.
//
// When the child dies, every unfinished answer gets a last event kError (Unavailable, code engine_dead), Submit refuses
// with the same status, and Health() says why. What to do about it is for the owner to decide.
//
// Threads  Any thread may call. Events and callbacks come on one thread of the object's, which reads the frames.
class EngineProcess : public EngineClient {
 public:
  struct Options {
    EngineConfig config;
    // Arguments for this program, which is what runs. "--fd N" is appended; they must lead to RunEngineProcess(N).
    std::vector<std::string> arguments = {"engine-process"};
    // The process has others to end before itself (engine/process_group.h): it is asked to, by kEndGroupSignal, and
    // gets longer for it.
    bool is_group = false;
    LoadProgress progress;
    // Called once, after progress: OK when the model is loaded, else why it is not, as StartLocalEngine says it, or
    // Internal if the process died.
    std::function<void(const absl::Status& status)> on_started;
    // Called once if the process dies after on_started(OK), after all answers have ended: the engine's own last words,
    // if it had any, or how the process ended. For the log: clients are told less.
    std::function<void(const absl::Status& why)> on_death;
    Metrics* metrics = nullptr;  // of the steps; outlives the object
    // Which engine of the front end, and its how many-th process.
    int32_t replica = 0;
    int32_t generation = 1;
  };

  // Signs of life.
  struct Pulse {
    std::chrono::steady_clock::time_point last_frame;  // of any kind; one comes every second
    std::chrono::steady_clock::time_point last_step;   // or the moment at which it last got something to do
    bool has_work = false;
    double step_limit_seconds = 0;  // by StepDeadline
  };

  // Starts the process and returns; the model loads meanwhile. From a thread that outlives the object, because the
  // kernel kills the child when this thread ends. Internal: the process cannot be started.
  static absl::StatusOr<std::unique_ptr<EngineProcess>> Start(Options options);

  // Ends the process, if need be by force. Not from a callback.
  ~EngineProcess() override;

  pid_t pid() const { return pid_; }

  const ModelInfo& model() const override { return model_; }  // after on_started(OK)
  absl::Status Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override;
  void Cancel(RequestId id) override;
  void CancelChoice(RequestId id, int32_t choice) override;
  void Drain() override;
  EngineStats Stats() const override;                                  // as of the last step, or 20 ms later
  std::vector<StepRecord> RecentSteps(uint64_t after) const override;  // likewise
  absl::Status Health() const override;
  Pulse pulse() const;

  // Ends the process by force. Everything follows that follows a crash, with `why` ("made no step for 12 s") in place
  // of the signal.
  void Kill(std::string_view why);

 private:
  enum class State { kLoading, kServing, kDraining, kEnded };

  // A request whose answers have not all finished.
  struct Live {
    std::shared_ptr<TokenSink> sink;
    std::vector<bool> finished;  // by answer
    int32_t num_unfinished = 0;
  };

  EngineProcess(Options options, pid_t pid, int pidfd, int socket);

  void ReadLoop();
  void OnStarted(const absl::Status& status);
  void OnEvents(const internal::Events& frame);
  void OnStats(const internal::EngineStats& frame);
  void OnEnd();
  std::string Reap();

  const Options options_;
  const pid_t pid_;
  const int pidfd_;
  FrameChannel channel_;
  ModelInfo model_;  // written before on_started, constant afterwards

  mutable std::mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kLoading;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;  // the end is our own wish
  absl::Status health_ ABSL_GUARDED_BY(mu_);
  EngineStats stats_ ABSL_GUARDED_BY(mu_);
  StepRing step_ring_ ABSL_GUARDED_BY(mu_);
  std::string killed_because_ ABSL_GUARDED_BY(mu_);  // empty: we did not
  std::chrono::steady_clock::time_point last_frame_ ABSL_GUARDED_BY(mu_);
  std::chrono::steady_clock::time_point last_step_ ABSL_GUARDED_BY(mu_);
  StepDeadline step_deadline_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<RequestId, Live> live_ ABSL_GUARDED_BY(mu_);

  absl::Status last_words_;  // of the engine; only the reading thread
  std::thread reader_;
};

}  // namespace optserve
