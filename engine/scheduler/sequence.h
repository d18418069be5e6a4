#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/request.h"
#include "engine/scheduler/ngram_index.h"
#include "engine/scheduler/prefix_hash.h"
#include "engine/scheduler/step_plan.h"

namespace optserve {

struct RequestState;
struct Share;

enum class SequenceState : uint8_t {
  kWaiting,    // its request is in the queue, or a sibling computes the prompt that both share
  kResumable,  // may run as soon as there is room, before anything from the queue: preempted, or forked off a sibling
  kRunning,    // holds blocks, takes part in every step
  kFinished,
};

// How often each token stands in a sequence, kept up to date token by token.
class TokenCounts {
 public:
  void AddPrompt(int32_t id) { At(id); }
  void AddGenerated(int32_t id) { ++At(id).generated; }
  const std::vector<SeenToken>& seen() const { return seen_; }  // in order of first appearance

 private:
  SeenToken& At(int32_t id) {
    const auto [entry, is_new] = places_.try_emplace(id, seen_.size());
    if (is_new) seen_.push_back({.id = id});
    return seen_[entry->second];
  }

  std::vector<SeenToken> seen_;
  std::unordered_map<int32_t, size_t> places_;  // in seen_
};

// The token stream and KV state behind one choice.
//
// Invariant  while running, `blocks` covers tokens [0, num_cached) and what the step in flight adds; otherwise it is
//            empty and num_cached is 0. tokens [0, num_cached) are in the KV cache.
struct Sequence {
  SequenceId id = 0;
  RequestState* request = nullptr;
  int32_t choice = 0;  // 0 .. n-1, as in TokenEvent
  SequenceState state = SequenceState::kWaiting;

  std::vector<int32_t> tokens;  // prompt, then what was generated; empty until it first runs
  int32_t num_cached = 0;
  std::vector<int32_t> blocks;     // physical ids
  uint64_t start_step = 0;         // the step in which it last began to run
  uint32_t table_version = 0;      // another one whenever `blocks` changes otherwise than by growing
  std::vector<PrefixHash> hashes;  // of the full blocks of `tokens`, as far as they were needed
  int32_t next_score = 0;          // prompt scores up to this token are out
  int32_t num_planned = 0;         // tokens that it has in the step that is being planned

  // Of the steps that are under way, at most two.
  int32_t num_in_flight = 0;              // its tokens in them
  int32_t num_draws = 0;                  // tokens that they draw for it and that nobody knows yet
  std::array<int32_t, 2> slices{-1, -1};  // by flight: its slice; -1: none
  int64_t engine_ns = 0;                  // its share of the steps since its last event

  std::unique_ptr<TokenCounts> counts;  // only with penalties
  std::unique_ptr<NgramIndex> ngrams;   // only with no_repeat_ngram_size

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_computed() const { return num_cached + num_in_flight; }  // once the steps under way have ended
  int32_t num_uncomputed() const { return num_tokens() + num_draws - num_computed(); }
};

// A request while the scheduler has it.
struct RequestState {
  GenerateRequest request;
  uint32_t owner = 0;             // the engine's; comes back with each event
  std::vector<Sequence> choices;  // [n], never resized: sequences are pointed to
  int32_t num_unfinished = 0;
  uint64_t arrival = 0;  // order of Add
  int64_t arrival_ns = 0;
  bool is_batch = false;    // which lane; promotion changes it
  Share* share = nullptr;   // its user's
  int32_t num_places = 0;   // its answers that run
  uint64_t start_step = 0;  // the step in which one of them last began to run
  uint64_t seniority = 0;   // order of first start; 0: none has started. The youngest is preempted first
  int32_t lead = -1;        // the choice that computes the prompt while its siblings wait for it; -1: nobody must wait
  int32_t cached_tokens = 0;  // of the prompt, that the cache had when the lead started
  int64_t queue_ns = 0;       // from Add to the plan in which the lead started
  PrefixHash root;            // of the hashes of its blocks

  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  // Those that are being drawn included.
  int32_t num_generated(const Sequence& sequence) const {
    return sequence.num_tokens() + sequence.num_draws - prompt_tokens();
  }
};

// Who goes first: by lane, then by request, then by choice.
struct BySeniority {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->request->is_batch != b->request->is_batch) return b->request->is_batch;
    return a->request->seniority != b->request->seniority ? a->request->seniority < b->request->seniority
                                                          : a->choice < b->choice;
  }
};

}  // namespace optserve
