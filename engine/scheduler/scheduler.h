#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "engine/scheduler/block_manager.h"
#include "engine/scheduler/fair_queue.h"
#include "engine/scheduler/nonfinite_watch.h"
#include "engine/scheduler/plan_builder.h"
#include "engine/scheduler/prefix_hash.h"
#include "engine/scheduler/sequence.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

struct SchedulerOptions {
  int32_t num_blocks = 0;
  int32_t block_size = 16;
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 2048;
  int32_t batch_step_tokens = 128;  // see the batch lane below
  bool prefix_cache = true;
  bool share_prefix_cache = false;  // also between API keys
  PrefixSecret prefix_secret = {};  // random, one for each process
#ifdef NDEBUG
  bool check_invariants = false;
#else
  bool check_invariants = true;  // after every call; costs time and memory in proportion to the pool
#endif
};

// Counters only grow.
struct SchedulerStats {
  uint64_t prompt_tokens = 0;  // planned in prefill, recomputation included
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_cache_queries = 0;  // prompt tokens of requests that started
  uint64_t prefix_cache_hits = 0;     // those of them that the cache had
  uint64_t queue_departures = 0;      // requests that started, or ended without
  uint64_t nonfinite_rows = 0;
};

// Decides what each step computes: which sequences run, in which blocks, and what becomes of what the step returned.
//
// Continuous batching: sequences join and leave at every step. A step holds first the running sequences' next tokens,
// then chunks of prompts, at most max_num_batched_tokens in all. A sequence starts when blocks for all its tokens are
// free; if a running one then needs a block and none is left, the youngest is preempted: it gives its blocks back and
// computes its tokens again later, before anything new starts. The oldest is never preempted, so there is always
// progress. Who starts next is FairQueue's decision. As long as somebody waits, nobody keeps more than his share of the
// places: who waits takes one from the share that has most, from its youngest. Choices of one request share the blocks
// of their prompt; who writes into a shared block gets a copy first. Full blocks stay findable by their contents until
// their room is needed, also after their sequences have ended: a prompt that begins like an earlier one with the same
// API key and cache salt begins behind what is cached.
//
// Requests of the batch lane fill idle room. They start only if nobody interactive waits, give their places and blocks
// up as soon as somebody interactive needs them, and as long as somebody interactive has been here lately they take
// part in a step only up to a total of batch_step_tokens (a token counts more the more context it has, see
// RequestCost), so that a step never gets long because of them. So that they do not starve, the oldest goes on as an
// interactive one when all have waited for ten seconds.
//
// No threads, no clock (`now_ns` is a parameter), no I/O. The same calls give the same plans. Requests must have passed
// CheckRequest.
//
// Invariants  see Violation(); checked after every call if options.check_invariants.
class Scheduler {
 public:
  // What happened to one answer, and whose it is.
  struct Event {
    uint32_t owner = 0;
    bool request_done = false;  // the last event of the last answer
    TokenEvent event;
  };

  explicit Scheduler(const SchedulerOptions& options);

  // `request.id` is the id of no request that is here. `owner` comes back with each of its events.
  void Add(GenerateRequest request, uint32_t owner, int64_t now_ns);

  // Ends a request, or one answer; its blocks are free when this returns. Unknown and finished ones are ignored.
  void Cancel(RequestId id);
  void CancelChoice(RequestId id, int32_t choice);

  // Ends everything; `last_event` says why.
  void EndAll(const TokenEvent& last_event);

  // Is anything unfinished?
  bool HasWork() const { return num_unfinished_ > 0; }

  // Ends what is past its deadline and plans the next step, which is under way from now on unless it is empty. The plan
  // is this object's and stays until it is committed. At most one step may be under way before the call: then tokens
  // that it draws stand in the plan as DrawnBySlice. Empty only if nothing can be done before that is committed.
  const StepPlan& PlanStep(int64_t now_ns);

  // May a step be planned while another one is under way, and nobody lose by it? Penalties and forbidden n-grams need
  // every token before the next is drawn.
  bool CanPlanAhead() const;

  // Takes in what the oldest step under way returned. To be called once for each plan that is not empty, in their
  // order. What a step computed for a sequence that has ended or given its blocks up since is dropped.
  // `step_ns`: how long the step took, which its sequences share by their tokens.
  void Commit(StepResult&& result, int64_t step_ns = 0);

  int32_t num_steps_in_flight() const { return num_flights_; }

  // Events since they were last taken, oldest first.
  std::vector<Event>& events() { return events_; }

  // Requests that have started, or ended without, since they were last taken.
  std::vector<RequestId>& departures() { return departures_; }

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return num_unfinished_ - num_running(); }  // sequences
  const BlockManager& blocks() const { return blocks_; }
  const SchedulerStats& stats() const { return stats_; }
  // So many different prompts have come to NaN or Inf lately that it is not the prompts.
  bool is_device_suspect() const { return nonfinite_.is_suspect(); }

  // What is wrong with the state; empty if nothing is. O(sequences + blocks).
  std::string Violation() const;

 private:
  enum Lane : uint8_t { kInteractive, kBatch };
  struct LaneState {
    FairQueue queue;                             // requests that have not started
    std::set<Sequence*, BySeniority> resumable;  // kResumable
  };

  // The phases of PlanStep, planning.cc; each takes its tokens out of `budget_`.
  void ExpireDeadlines(int64_t now_ns);
  void PromoteStarvedBatch(int64_t now_ns);
  void PlanDecodes(Lane lane);
  void PlanChunks(Lane lane);
  bool StartSequences(Lane lane);  // false: somebody waits for blocks or a place
  const StepPlan& EmitPlan();

  LaneState& LaneOf(const RequestState& request) { return lanes_[request.is_batch ? kBatch : kInteractive]; }
  bool IsLaneBusy(Lane lane) const;
  void Promote(RequestState& request);
  Sequence* NextToStart(LaneState& lane);
  // Gives up a running sequence for `next`, which waits for a place or for blocks. False: nobody has to.
  bool MakeRoomFor(const Sequence& next);
  // The running sequence whose place is to be given to `next`, so that shares become more even; nullptr: none.
  Sequence* FindGiver(const Sequence& next) const;
  // Blocks of the share that `request` belongs to, where it parts from `other`.
  int64_t BlocksOfShare(const RequestState& request, const RequestState& other) const;
  // Takes a sequence out of the step that is being planned.
  void Unplan(Sequence& sequence);
  // How many of its tokens the step has room for.
  int32_t Room(const Sequence& sequence) const;
  int32_t RoomForBatch(const Sequence& sequence) const;
  void Plan(Sequence& sequence, int32_t num_tokens);
  // Starts `sequence` and plans its first chunk, if there is room for all its tokens.
  bool TryStart(Sequence& sequence);
  void Prepare(Sequence& sequence);
  // Extends sequence.hashes to its first `num_blocks` blocks, which are full.
  void HashBlocks(Sequence& sequence, int32_t num_blocks);
  // How many leading blocks of `sequence`, up to `max_blocks`, the cache has.
  int32_t CountCachedBlocks(Sequence& sequence, int32_t max_blocks);
  // The running sibling whose blocks hold the whole prompt; nullptr: none.
  const Sequence* FindForkSource(const Sequence& sequence) const;
  // Blocks for `num_tokens`, preempting the youngest as long as needed. False: `sequence` was the youngest.
  bool GrowOrPreempt(Sequence& sequence, int32_t num_tokens);
  int32_t AllocateBlock();
  void Preempt(Sequence& sequence);
  void InsertRunning(Sequence& sequence);
  void StopRunning(Sequence& sequence);

  // How many tokens of a running sequence could be computed now: 0 if what is under way has to end first.
  static int32_t NumReady(const Sequence& sequence);

  void CommitSlice(Sequence& sequence, int32_t num_tokens, ScoredPrompt* scores, SampledToken* sample);
  void Append(Sequence& sequence, int32_t token);
  // Blocks that have become full since `num_cached_before` can be found from now on.
  void RegisterBlocks(Sequence& sequence, int32_t num_cached_before);
  FinishReason FinishOf(const Sequence& sequence) const;

  void LeaveQueue(const RequestState& request);
  // The prompt is in the lead's blocks: its siblings may start.
  void ReleaseSiblings(RequestState& request);
  // The lead ended early: the next one computes the prompt.
  void ReplaceLead(RequestState& request);
  // Both fill in whose event it is.
  void Emit(Sequence& sequence, TokenEvent event);
  // Takes a sequence out of wherever it is. Its request is gone with its last answer.
  void Finish(Sequence& sequence, TokenEvent last_event);
  void FinishUnfinished(RequestState& request, const TokenEvent& last_event);
  void CheckInvariants() const;

  const SchedulerOptions options_;
  const int32_t max_running_;
  const PrefixHasher hasher_;
  BlockManager blocks_;
  std::unordered_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::array<LaneState, 2> lanes_;
  std::vector<Sequence*> running_;  // by seniority: the batch lane stands behind
  std::set<std::pair<int64_t, RequestState*>> deadlines_;

  // A step under way: its plan, and whose its slices are; nullptr: ended since.
  struct Flight {
    PlanBuilder builder;
    std::vector<Sequence*> planned;  // by slice
  };
  std::array<Flight, 2> flights_;
  int32_t first_flight_ = 0;  // the oldest
  int32_t num_flights_ = 0;   // under way
  uint64_t step_ = 1;         // that is planned next, or being planned

  // The step that is being planned.
  PlanBuilder& builder() { return flights_[next_flight()].builder; }
  int32_t next_flight() const { return (first_flight_ + num_flights_) % 2; }
  int64_t now_ns_ = 0;
  std::vector<Sequence*> decodes_;
  std::vector<Sequence*> chunks_;
  int32_t budget_ = 0;  // tokens that it has room for
  int64_t step_cost_ = 0;
  int64_t batch_limit_ = 0;  // cost up to which batch work takes part

  std::vector<Event> events_;
  std::vector<RequestId> departures_;
  SchedulerStats stats_;
  NonfiniteWatch nonfinite_;
  SequenceId next_sequence_ = 1;
  uint64_t next_arrival_ = 1;
  uint64_t next_seniority_ = 1;
  int32_t num_unfinished_ = 0;  // sequences
  std::optional<int64_t> last_interactive_ns_;
  int64_t last_batch_ns_ = 0;  // when batch work last took part, or there was none
};

}  // namespace optserve
