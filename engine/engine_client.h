#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/request.h"
#include "engine/util/step_account.h"
#include "engine/util/step_records.h"

namespace optserve {

// Counters and gauges of an engine. Counters only grow.
struct EngineStats {
  int32_t running = 0;  // sequences in the batch
  int32_t waiting = 0;  // sequences admitted to the queue, preempted ones included
  int64_t blocks_total = 0;
  int64_t blocks_used = 0;
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;  // computed in prefill, recomputation included
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_cache_queries = 0;  // prompt tokens looked up
  uint64_t prefix_cache_hits = 0;     // prompt tokens found
  uint64_t nonfinite_rows = 0;
  double step_seconds = 0.0;  // sum over steps
  double last_step_seconds = 0.0;
  int32_t last_step_tokens = 0;
  // How the time divides in which there was work: its parts sum to it. In the second a step counts once for each
  // sequence in it: what requests waited for. Both may lag behind the counters above while a step's events go out.
  StepAccount step_account;
  StepAccount request_account;
  // Sum over requests that have ended: from when Submit took one until its last event was there.
  double request_seconds = 0.0;
};

// The border between the front end and an engine: all that the server knows of it. Any thread may call.
//
// Two implementations: LocalEngine in the same process (engine/engine.h), EngineProcess across a socketpair
// (server/replicas/engine_process.h).
class EngineClient {
 public:
  virtual ~EngineClient() = default;

  virtual const ModelInfo& model() const = 0;

  // Queues a request; its events go to `sink`. Errors come either from here or, for what only the engine can know, as
  // the one event kError of each answer:
  //   InvalidArgument    CheckRequest
  //   ResourceExhausted  the queue is full
  //   Unavailable        draining, or the engine is gone
  virtual absl::Status Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) = 0;

  // Ends all answers of a request; its blocks are free before the next plan. Each unfinished answer gets a last event
  // kCancelled. Unknown and finished ids are ignored.
  virtual void Cancel(RequestId id) = 0;

  // The same for answer `choice` (as in TokenEvent) alone: the others go on and keep sharing the prompt's blocks. For
  // an answer that met one of its stop strings.
  virtual void CancelChoice(RequestId id, int32_t choice) = 0;

  // From now on Submit refuses; what runs goes on.
  virtual void Drain() = 0;

  virtual EngineStats Stats() const = 0;  // from memory, at once

  // The last steps with a number above `after`, at most kNumStepRecords of each engine, oldest first. From memory.
  virtual std::vector<StepRecord> RecentSteps(uint64_t after) const = 0;

  // OK while the engine lives; afterwards why it ended, or who holds up a step that takes longer than StepDeadline.
  virtual absl::Status Health() const = 0;
};

// Called while weights load, from any thread: bytes so far and in all.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// Loads the model and starts the engine thread in this process. InvalidArgument / NotFound / ResourceExhausted: a line
// for the user about model, configuration or memory.
absl::StatusOr<std::unique_ptr<EngineClient>> StartLocalEngine(const EngineConfig& config,
                                                               const LoadProgress& progress = nullptr);

}  // namespace optserve
