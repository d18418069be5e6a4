#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/drain_rate.h"
#include "engine/engine_client.h"
#include "engine/executor/executor.h"
#include "engine/queue_limits.h"
#include "engine/scheduler/scheduler.h"
#include "engine/util/step_deadline.h"
#include "engine/util/step_records.h"

namespace optserve {

// The engine in this process: a scheduler, an executor, and the thread that goes round between them.
//
// Threads  any thread calls the public functions; none of them waits for a step. Sinks are called on the engine's
//          thread, without a lock: they may call back.
class LocalEngine : public EngineClient {
 public:
  // Starts `executor` and the engine's thread; returns when the model is ready. Errors are Executor::Start's.
  static absl::StatusOr<std::unique_ptr<LocalEngine>> Start(const EngineConfig& config,
                                                            std::unique_ptr<Executor> executor,
                                                            const LoadProgress& progress);

  // Ends what is unfinished with kCancelled.
  ~LocalEngine() override;

  const ModelInfo& model() const override { return model_; }
  absl::Status Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override;
  void Cancel(RequestId id) override;
  void CancelChoice(RequestId id, int32_t choice) override;
  void Drain() override;
  EngineStats Stats() const override;
  std::vector<StepRecord> RecentSteps(uint64_t after) const override;
  absl::Status Health() const override;

 private:
  // What other threads ask of the engine's, in the order in which they asked.
  struct SubmitCommand {
    GenerateRequest request;
    std::shared_ptr<TokenSink> sink;
    int64_t submitted_ns = 0;
  };
  struct CancelCommand {
    RequestId id = 0;
    std::optional<int32_t> choice;  // none: all
  };
  using Command = std::variant<SubmitCommand, CancelCommand>;

  // A sink and what the step has for it; `owner` of the scheduler's events is its place in sinks_.
  struct SinkSlot {
    std::shared_ptr<TokenSink> sink;
    int32_t num_requests = 0;  // that are not done
    std::vector<TokenEvent> events;
  };

  LocalEngine(const EngineConfig& config, std::unique_ptr<Executor> executor);

  absl::Status StartExecutor(const LoadProgress& progress);
  void Run();
  // Plans a step and submits it. False: there is nothing to plan now, or no more may be under way.
  bool SubmitStep();
  // Waits for the oldest step under way and commits it. Unavailable: the engine is dead.
  absl::Status CollectStep();
  void DropSteps();
  // For Health: since when the step runs; 0: none does.
  void NoteStepStart(int64_t start_ns);
  // Waits until there is something to do and takes the inbox in. False: the engine is to stop.
  bool TakeInbox();
  void Apply(Command command);
  // Ends everything and lets nothing more in.
  void Stop(FinishReason reason, const absl::Status& error);
  // Ends the account of a step that was collected, whose events are out.
  void CloseAccount();
  // Lets other threads see what has changed, then hands out the events: one call for each sink.
  void Publish();
  void DeliverEvents();
  void EnqueueCancel(CancelCommand command);
  uint32_t SlotOf(std::shared_ptr<TokenSink> sink);
  absl::Status CheckQueue(const GenerateRequest& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const EngineConfig config_;
  const std::unique_ptr<Executor> executor_;
  ModelInfo model_;

  struct StepInFlight {
    uint64_t step = 0;
    int32_t num_tokens = 0;
    int32_t num_sequences = 0;
  };
  // The step that was collected last, until its account is closed.
  struct OpenAccount {
    StepInFlight step;
    StepTimes times;  // in the executor
    StepDemand demand;
  };

  // The engine's thread only.
  int32_t max_steps_in_flight_ = 1;
  std::deque<StepInFlight> steps_in_flight_;
  int64_t step_start_ns_of_engine_ = 0;  // the same as step_start_ns_
  std::optional<OpenAccount> open_account_;
  int64_t accounted_ns_ = 0;  // all work until then is in an account
  std::unique_ptr<Scheduler> scheduler_;
  EngineStats counters_;
  std::vector<Command> taken_;
  std::vector<SinkSlot> sinks_;
  std::vector<uint32_t> free_slots_;
  std::unordered_map<TokenSink*, uint32_t> slots_;
  std::vector<uint32_t> touched_slots_;

  mutable std::mutex mu_;
  std::condition_variable wake_;
  std::vector<Command> inbox_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<RequestId, int64_t> live_ ABSL_GUARDED_BY(mu_);  // when each was submitted
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status health_ ABSL_GUARDED_BY(mu_);
  EngineStats stats_ ABSL_GUARDED_BY(mu_);
  StepRing step_ring_ ABSL_GUARDED_BY(mu_);
  StepDeadline step_deadline_ ABSL_GUARDED_BY(mu_);
  int64_t step_start_ns_ ABSL_GUARDED_BY(mu_) = 0;  // of the step that runs; 0: none
  QueueLimits queue_ ABSL_GUARDED_BY(mu_);          // requests that have not started, those in the inbox included
  DrainRate drain_rate_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace optserve
