#include "engine/scheduler/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/util/status.h"
#include "kernels/common/check.h"

namespace optserve {
Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      max_running_(std::min(options.max_num_seqs, options.max_num_batched_tokens)),
      hasher_(options.prefix_secret),
      blocks_(options.num_blocks, options.block_size) {
  OPTSERVE_CHECK(max_running_ > 0) << options.max_num_seqs << " sequences, " << options.max_num_batched_tokens
                                   << " tokens a step";
}

void Scheduler::Add(GenerateRequest request, uint32_t owner, int64_t now_ns) {
  const RequestId id = request.id;
  const auto [entry, is_new] = requests_.try_emplace(id, std::make_unique<RequestState>());
  OPTSERVE_CHECK(is_new) << "request " << id << " is here already";
  RequestState& state = *entry->second;
  state.request = std::move(request);
  state.owner = owner;
  state.arrival = next_arrival_++;
  state.arrival_ns = now_ns;
  state.is_batch = state.request.batch;
  state.num_unfinished = state.request.num_choices;
  num_unfinished_ += state.request.num_choices;
  state.root = hasher_.Root(options_.share_prefix_cache ? "" : state.request.api_key_id, state.request.cache_salt);
  state.choices.resize(state.request.num_choices);
  for (int32_t choice = 0; choice < state.request.num_choices; ++choice) {
    Sequence& sequence = state.choices[choice];
    sequence.id = next_sequence_++;
    sequence.request = &state;
    sequence.choice = choice;
    sequence.next_score = state.request.prompt_scores_sent + 1;
  }
  LaneOf(state).queue.Push(state);
  if (state.request.deadline_ns != 0) deadlines_.emplace(state.request.deadline_ns, &state);
  if (state.request.max_tokens == 0) {
    // Answer 0 carries the scores; the others are empty.
    for (int32_t choice = 1; choice < state.request.num_choices; ++choice) {
      Finish(state.choices[choice], {.finish = FinishReason::kLength});
    }
  }
  CheckInvariants();
}

void Scheduler::Cancel(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  FinishUnfinished(*found->second, {.finish = FinishReason::kCancelled});
  CheckInvariants();
}

void Scheduler::CancelChoice(RequestId id, int32_t choice) {
  const auto found = requests_.find(id);
  if (found == requests_.end() || choice < 0 || choice >= found->second->request.num_choices) return;
  Sequence& sequence = found->second->choices[choice];
  if (sequence.state == SequenceState::kFinished) return;
  Finish(sequence, {.finish = FinishReason::kCancelled});
  CheckInvariants();
}

void Scheduler::EndAll(const TokenEvent& last_event) {
  // In order of arrival, so that the events come in a stated order.
  std::vector<RequestState*> all;
  for (const auto& [id, request] : requests_) all.push_back(request.get());
  std::ranges::sort(all, {}, &RequestState::arrival);
  for (RequestState* request : all) FinishUnfinished(*request, last_event);
  CheckInvariants();
}

void Scheduler::StopRunning(Sequence& sequence) {
  Unplan(sequence);
  for (size_t flight = 0; flight < flights_.size(); ++flight) {
    const int32_t slice = std::exchange(sequence.slices[flight], -1);
    if (slice >= 0) flights_[flight].planned[slice] = nullptr;
  }
  sequence.num_in_flight = 0;
  sequence.num_draws = 0;
  // The end of a prefix is given up before its beginning.
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) blocks_.Release(*block);
  sequence.blocks.clear();
  ++sequence.table_version;
  sequence.num_cached = 0;
  running_.erase(std::ranges::find(running_, &sequence));
  FairQueue::AddPlaces(*sequence.request, -1);
}

void Scheduler::Commit(StepResult&& result, int64_t step_ns) {
  auto scored = result.scored.begin();
  auto sampled = result.sampled.begin();
  OPTSERVE_CHECK(num_flights_ > 0);
  const int32_t index = first_flight_;
  Flight& flight = flights_[index];
  const StepPlan& plan = flight.builder.plan();
  OPTSERVE_CHECK(result.step == plan.step) << "step " << result.step << " instead of " << plan.step;
  for (int32_t slice = 0; slice < std::ssize(flight.planned); ++slice) {
    ScoredPrompt* scores = scored != result.scored.end() && scored->slice == slice ? &*scored++ : nullptr;
    SampledToken* sample = sampled != result.sampled.end() && sampled->slice == slice ? &*sampled++ : nullptr;
    Sequence* sequence = flight.planned[slice];
    if (sequence == nullptr) continue;  // ended while the step ran
    OPTSERVE_CHECK((sample != nullptr) == plan.slices[slice].wants_sample) << "slice " << slice;
    sequence->slices[index] = -1;
    sequence->num_in_flight -= plan.slices[slice].num_tokens;
    sequence->num_draws -= sample != nullptr ? 1 : 0;
    sequence->engine_ns += step_ns * plan.slices[slice].num_tokens / std::ssize(plan.token_ids);
    CommitSlice(*sequence, plan.slices[slice].num_tokens, scores, sample);
  }
  OPTSERVE_CHECK(scored == result.scored.end() && sampled == result.sampled.end()) << "results of no slice";
  flight.planned.clear();
  first_flight_ = 1 - first_flight_;
  --num_flights_;
  CheckInvariants();
}

void Scheduler::CommitSlice(Sequence& sequence, int32_t num_tokens, ScoredPrompt* scores, SampledToken* sample) {
  RequestState& request = *sequence.request;
  sequence.num_cached += num_tokens;
  if ((scores != nullptr && !scores->finite) || (sample != nullptr && !sample->finite)) {
    ++stats_.nonfinite_rows;
    nonfinite_.Note(step_, request.request.prompt);
    for (const int32_t block : sequence.blocks) blocks_.Taint(block);
    Finish(sequence, {.finish = FinishReason::kError,
                      .error = Internal("the model's output for this answer is not finite; it may be tried again")});
    return;
  }
  RegisterBlocks(sequence, sequence.num_cached - num_tokens);
  if (request.lead == sequence.choice && sequence.num_cached >= request.prompt_tokens()) ReleaseSiblings(request);
  TokenEvent event;
  if (scores != nullptr) {
    event.prompt_scores_begin = sequence.next_score;
    event.prompt_scores = std::move(scores->tokens);
    sequence.next_score += static_cast<int32_t>(event.prompt_scores.size());
  }
  const bool is_first_token =
      sequence.num_tokens() == std::ssize(request.request.prompt) + std::ssize(request.request.generated);
  if (sample != nullptr) {
    ++stats_.generated_tokens;
    Append(sequence, sample->token.id);
    event.token = std::move(sample->token);
    event.finish = FinishOf(sequence);
  } else if (request.request.max_tokens == 0 && sequence.num_cached == sequence.num_tokens()) {
    event.finish = FinishReason::kLength;
  }
  if (is_first_token) {
    event.cached_tokens = request.cached_tokens;
    event.queue_ns = request.queue_ns;
  }
  if (event.finish != FinishReason::kNone) {
    Finish(sequence, std::move(event));
  } else if (event.token.has_value() || !event.prompt_scores.empty()) {
    Emit(sequence, std::move(event));
  }
}

void Scheduler::Append(Sequence& sequence, int32_t token) {
  sequence.tokens.push_back(token);
  if (sequence.counts != nullptr) sequence.counts->AddGenerated(token);
  if (sequence.ngrams != nullptr) sequence.ngrams->Update();
}

void Scheduler::RegisterBlocks(Sequence& sequence, int32_t num_cached_before) {
  if (!options_.prefix_cache) return;
  const int32_t begin = num_cached_before / blocks_.block_size();
  const int32_t end = sequence.num_cached / blocks_.block_size();
  HashBlocks(sequence, end);
  for (int32_t i = begin; i < end; ++i) blocks_.Register(sequence.blocks[i], sequence.hashes[i]);
}

FinishReason Scheduler::FinishOf(const Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  const int32_t num_generated = sequence.num_tokens() - request.prompt_tokens();
  if (num_generated > request.request.sampling.min_tokens &&
      std::ranges::find(request.request.stop_token_ids, sequence.tokens.back()) !=
          request.request.stop_token_ids.end()) {
    return FinishReason::kStop;
  }
  return num_generated >= request.request.max_tokens ? FinishReason::kLength : FinishReason::kNone;
}

void Scheduler::LeaveQueue(const RequestState& request) {
  departures_.push_back(request.request.id);
  ++stats_.queue_departures;
}

void Scheduler::ReleaseSiblings(RequestState& request) {
  request.lead = -1;
  for (Sequence& sibling : request.choices) {
    if (sibling.state != SequenceState::kWaiting) continue;
    sibling.state = SequenceState::kResumable;
    LaneOf(request).resumable.insert(&sibling);
  }
}

void Scheduler::ReplaceLead(RequestState& request) {
  request.lead = -1;
  const auto next = std::ranges::find(request.choices, SequenceState::kWaiting, &Sequence::state);
  if (next == request.choices.end()) return;
  request.lead = next->choice;
  next->state = SequenceState::kResumable;
  LaneOf(request).resumable.insert(&*next);
}

void Scheduler::Emit(Sequence& sequence, TokenEvent event) {
  const RequestState& request = *sequence.request;
  event.request = request.request.id;
  event.choice = sequence.choice;
  event.engine_ns = std::exchange(sequence.engine_ns, 0);
  events_.push_back({.owner = request.owner, .request_done = request.num_unfinished == 0, .event = std::move(event)});
}

void Scheduler::Finish(Sequence& sequence, TokenEvent last_event) {
  RequestState& request = *sequence.request;
  if (sequence.state == SequenceState::kRunning) StopRunning(sequence);
  if (sequence.state == SequenceState::kResumable) LaneOf(request).resumable.erase(&sequence);
  sequence.state = SequenceState::kFinished;
  --num_unfinished_;
  --request.num_unfinished;
  // What ends before its first token says here how long it waited, if a step came to it.
  if (sequence.num_tokens() == request.prompt_tokens() + std::ssize(request.request.generated)) {
    last_event.queue_ns = request.queue_ns;
  }
  Emit(sequence, std::move(last_event));
  if (request.num_unfinished > 0) {
    if (request.lead == sequence.choice) ReplaceLead(request);
    return;
  }
  if (request.seniority == 0) {
    LaneOf(request).queue.Remove(request);
    LeaveQueue(request);
  }
  LaneOf(request).queue.Forget(request);
  if (request.request.deadline_ns != 0) deadlines_.erase({request.request.deadline_ns, &request});
  requests_.erase(requests_.find(request.request.id));
}

void Scheduler::FinishUnfinished(RequestState& request, const TokenEvent& last_event) {
  // The request is gone with its last answer.
  int32_t left = request.num_unfinished;
  for (size_t choice = 0; left > 0; ++choice) {
    if (request.choices[choice].state == SequenceState::kFinished) continue;
    --left;
    Finish(request.choices[choice], last_event);
  }
}

std::string Scheduler::Violation() const {
  std::vector<const std::vector<int32_t>*> tables;
  for (const Sequence* sequence : running_) tables.push_back(&sequence->blocks);
  if (std::string violation = blocks_.Violation(tables); !violation.empty()) return violation;
  if (num_running() > max_running_) return fmt::format("{} sequences run, at most {} may", num_running(), max_running_);
  if (!std::ranges::is_sorted(running_, BySeniority())) return "the running sequences are out of order";
  size_t num_running = 0;
  size_t num_resumable = 0;
  int32_t num_unfinished = 0;
  for (const auto& [id, request] : requests_) {
    for (const Sequence& sequence : request->choices) {
      const bool is_running = sequence.state == SequenceState::kRunning;
      num_running += is_running ? 1 : 0;
      num_resumable += sequence.state == SequenceState::kResumable ? 1 : 0;
      num_unfinished += sequence.state != SequenceState::kFinished ? 1 : 0;
      if (!is_running && (!sequence.blocks.empty() || sequence.num_cached != 0)) {
        return fmt::format("sequence {} does not run, but has {} blocks", sequence.id, sequence.blocks.size());
      }
      if (!is_running) continue;
      if (std::ssize(sequence.blocks) < blocks_.BlocksFor(sequence.num_cached)) {
        return fmt::format("sequence {} has {} blocks for {} cached tokens", sequence.id, sequence.blocks.size(),
                           sequence.num_cached);
      }
      for (size_t i = sequence.num_cached / blocks_.block_size(); i < sequence.blocks.size(); ++i) {
        if (blocks_.IsShared(sequence.blocks[i])) {
          return fmt::format("sequence {} writes into block {}, which is shared", sequence.id, sequence.blocks[i]);
        }
      }
    }
  }
  if (num_running != running_.size()) return fmt::format("{} of {} sequences run", running_.size(), num_running);
  const size_t in_lanes = lanes_[0].resumable.size() + lanes_[1].resumable.size();
  if (num_resumable != in_lanes) return fmt::format("{} of {} are resumable", in_lanes, num_resumable);
  if (num_unfinished != num_unfinished_) return fmt::format("{} unfinished, not {}", num_unfinished, num_unfinished_);
  return "";
}

void Scheduler::CheckInvariants() const {
  if (!options_.check_invariants) return;
  const std::string violation = Violation();
  OPTSERVE_CHECK(violation.empty()) << violation;
}

}  // namespace optserve
