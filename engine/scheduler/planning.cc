#include <algorithm>
#include <limits>
#include <utility>

#include "engine/scheduler/scheduler.h"
#include "kernels/common/check.h"

// Scheduler::PlanStep: who takes part in the next step, and with how many tokens.

namespace optserve {
namespace {

// Batch work holds back as long as somebody interactive was here within this time: who came lately comes again.
constexpr int64_t kInteractiveMemoryNs = 10'000'000'000;

// When the batch lane has got nothing for this long, its oldest request goes on as an interactive one.
constexpr int64_t kBatchPatienceNs = 10'000'000'000;

// A sequence starts only if it leaves 1 / kReserveFraction of the pool to those who run and grow.
constexpr int32_t kReserveFraction = 100;

bool WantsCounts(const SamplingParams& sampling) {
  return sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0.0f || sampling.frequency_penalty != 0.0f;
}

// How many leading tokens may come from elsewhere than this sequence's own computation: at least one token is left,
// because its logits are wanted, and so are those that give scores.
int32_t MaxReusedTokens(const Sequence& sequence) {
  const RequestState& request = *sequence.request;
  const bool wants_scores =
      request.request.num_prompt_logprobs >= 0 && sequence.choice == 0 && sequence.next_score < request.prompt_tokens();
  return std::min(sequence.num_tokens(), wants_scores ? sequence.next_score : sequence.num_tokens()) - 1;
}

}  // namespace

const StepPlan& Scheduler::PlanStep(int64_t now_ns) {
  now_ns_ = now_ns;
  ExpireDeadlines(now_ns);
  PromoteStarvedBatch(now_ns);
  decodes_.clear();
  chunks_.clear();
  OPTSERVE_CHECK(num_flights_ < std::ssize(flights_)) << num_flights_ << " steps are under way";
  builder().Begin(step_);
  budget_ = options_.max_num_batched_tokens;
  step_cost_ = 0;
  batch_limit_ = std::numeric_limits<int64_t>::max();
  PlanDecodes(kInteractive);
  PlanChunks(kInteractive);
  const bool is_anybody_blocked = !StartSequences(kInteractive);
  if (IsLaneBusy(kInteractive)) last_interactive_ns_ = now_ns;
  if (last_interactive_ns_.has_value() && now_ns - *last_interactive_ns_ < kInteractiveMemoryNs) {
    batch_limit_ = options_.batch_step_tokens * kCostContext;
  }
  // Who waits for blocks has driven the batch lane out already; nobody overtakes him, or he would wait forever.
  if (!is_anybody_blocked) {
    const size_t num_interactive = decodes_.size() + chunks_.size();
    PlanDecodes(kBatch);
    PlanChunks(kBatch);
    StartSequences(kBatch);
    if (decodes_.size() + chunks_.size() > num_interactive) last_batch_ns_ = now_ns;
  }
  return EmitPlan();
}

const StepPlan& Scheduler::EmitPlan() {
  const int32_t index = next_flight();
  Flight& flight = flights_[index];
  flight.planned.clear();
  const auto emit = [&](Sequence& sequence) {
    sequence.slices[index] = flight.builder.num_slices();
    flight.planned.push_back(&sequence);
    const int32_t num_tokens = std::exchange(sequence.num_planned, 0);
    flight.builder.Add(sequence, num_tokens, /*last_slice=*/sequence.slices[1 - index]);
    const bool draws = flight.builder.plan().slices[sequence.slices[index]].wants_sample;
    sequence.num_in_flight += num_tokens;
    // The token that the last step draws is among what this one computes; the next one is drawn behind it.
    sequence.num_draws += draws ? 1 : 0;
  };
  for (Sequence* sequence : decodes_) emit(*sequence);
  flight.builder.EndDecodes();
  for (Sequence* sequence : chunks_) emit(*sequence);
  if (!flight.planned.empty()) {
    ++num_flights_;
    ++step_;
  }
  OPTSERVE_CHECK(num_flights_ > 0 || !HasWork()) << num_unfinished_ << " sequences, but an empty plan";
  CheckInvariants();
  return flight.builder.End();
}

void Scheduler::ExpireDeadlines(int64_t now_ns) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_ns) {
    FinishUnfinished(*deadlines_.begin()->second, {.finish = FinishReason::kDeadline});
  }
}

bool Scheduler::IsLaneBusy(Lane lane) const {
  if (lanes_[lane].queue.size() > 0 || !lanes_[lane].resumable.empty()) return true;
  if (running_.empty()) return false;
  return (lane == kInteractive ? running_.front() : running_.back())->request->is_batch == (lane == kBatch);
}

void Scheduler::PromoteStarvedBatch(int64_t now_ns) {
  if (!IsLaneBusy(kBatch)) last_batch_ns_ = now_ns;
  if (now_ns - last_batch_ns_ < kBatchPatienceNs) return;
  last_batch_ns_ = now_ns;
  LaneState& batch = lanes_[kBatch];
  const auto oldest = std::ranges::find_if(running_, [](const Sequence* s) { return s->request->is_batch; });
  if (oldest != running_.end()) return Promote(*(*oldest)->request);
  Promote(batch.resumable.empty() ? *batch.queue.Head() : *(*batch.resumable.begin())->request);
}

void Scheduler::Promote(RequestState& request) {
  LaneState& batch = lanes_[kBatch];
  FairQueue& queue = lanes_[kInteractive].queue;
  if (request.seniority == 0) batch.queue.Remove(request);
  const int32_t num_places = request.num_places;
  FairQueue::AddPlaces(request, -num_places);
  batch.queue.Forget(request);
  queue.Push(request);
  FairQueue::AddPlaces(request, num_places);
  if (request.seniority != 0) queue.Start(request);
  // Its sequences stand in other places of the ordered lists from now on.
  const auto is_its = [&request](const Sequence* sequence) { return sequence->request == &request; };
  std::erase_if(running_, is_its);
  std::erase_if(batch.resumable, is_its);
  request.is_batch = false;
  for (Sequence& sequence : request.choices) {
    if (sequence.state == SequenceState::kResumable) lanes_[kInteractive].resumable.insert(&sequence);
    if (sequence.state == SequenceState::kRunning) InsertRunning(sequence);
  }
}

void Scheduler::InsertRunning(Sequence& sequence) {
  running_.insert(std::ranges::upper_bound(running_, &sequence, BySeniority()), &sequence);
}

int32_t Scheduler::Room(const Sequence& sequence) const {
  const int32_t room = std::min(sequence.num_uncomputed(), budget_);
  if (!sequence.request->is_batch || batch_limit_ == std::numeric_limits<int64_t>::max()) return room;
  if (decodes_.empty() && chunks_.empty()) return std::min(room, std::max(1, RoomForBatch(sequence)));
  return std::min(room, RoomForBatch(sequence));
}

int32_t Scheduler::RoomForBatch(const Sequence& sequence) const {
  const int64_t cost = std::max<int64_t>(batch_limit_ - step_cost_, 0);
  // As if each token attended to all that the whole chunk could reach: a little less than what fits.
  const int64_t reach = cost / kCostContext;
  return static_cast<int32_t>(
      cost / (kCostContext + sequence.num_computed() + std::min<int64_t>(reach, sequence.num_uncomputed())));
}

int32_t Scheduler::NumReady(const Sequence& sequence) {
  if (sequence.num_draws == 0) return sequence.num_uncomputed();
  const RequestState& request = *sequence.request;
  const bool is_last = request.num_generated(sequence) >= request.request.max_tokens;
  return is_last || sequence.counts != nullptr || sequence.ngrams != nullptr ? 0 : sequence.num_uncomputed();
}

bool Scheduler::CanPlanAhead() const {
  return std::ranges::none_of(running_, [](const Sequence* sequence) {
    return sequence->num_draws > 0 && (sequence->counts != nullptr || sequence->ngrams != nullptr);
  });
}

void Scheduler::PlanDecodes(Lane lane) {
  // The oldest first: who is preempted stands behind who needs its block, so nothing planned is ever taken back.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.request->is_batch != (lane == kBatch) || NumReady(sequence) != 1) continue;
    if (Room(sequence) < 1) return;
    if (!GrowOrPreempt(sequence, sequence.num_computed() + 1)) return;
    LaneOf(*sequence.request).queue.Charge(*sequence.request, RequestCost(1, sequence.num_computed()));
    Plan(sequence, 1);
  }
}

void Scheduler::PlanChunks(Lane lane) {
  for (Sequence* sequence : running_) {
    // Those that start in this step have their tokens.
    if (sequence->request->is_batch != (lane == kBatch) || NumReady(*sequence) <= 1) continue;
    const int32_t room = Room(*sequence);
    if (room < 1) return;
    Plan(*sequence, room);
  }
}

bool Scheduler::StartSequences(Lane lane) {
  while (budget_ > 0) {
    Sequence* next = NextToStart(lanes_[lane]);
    if (next == nullptr) return true;
    if (next->tokens.empty()) Prepare(*next);
    if (Room(*next) < 1) return true;
    while (num_running() >= max_running_ || !TryStart(*next)) {
      if (!MakeRoomFor(*next)) return false;
    }
  }
  return true;
}

bool Scheduler::MakeRoomFor(const Sequence& next) {
  if (running_.empty()) return false;
  // Batch work yields at once.
  Sequence* giver = !next.request->is_batch && running_.back()->request->is_batch ? running_.back() : FindGiver(next);
  if (giver == nullptr) return false;
  Preempt(*giver);
  return true;
}

Sequence* Scheduler::FindGiver(const Sequence& next) const {
  const RequestState& taker = *next.request;
  Sequence* giver = nullptr;
  for (size_t i = running_.size(); i-- > 0;) {  // the youngest first
    RequestState& request = *running_[i]->request;
    // What started in this very step may be the target or the source of a copy.
    if (request.is_batch != taker.is_batch || request.start_step == step_) continue;
    if (!FairQueue::MayTakePlace(taker, request)) continue;
    if (giver == nullptr || FairQueue::MayTakePlace(*giver->request, request)) giver = running_[i];
  }
  if (giver == nullptr || num_running() >= max_running_) return giver;
  // It is blocks that are wanting. They are evened out only by a newcomer: who has given blocks up would else take them
  // back at once.
  const int64_t wanted = blocks_.BlocksFor(next.num_tokens());
  const int64_t left = BlocksOfShare(*giver->request, taker) - std::ssize(giver->blocks);
  const bool is_newcomer = next.state == SequenceState::kWaiting;
  return is_newcomer && BlocksOfShare(taker, *giver->request) + wanted <= left ? giver : nullptr;
}

int64_t Scheduler::BlocksOfShare(const RequestState& request, const RequestState& other) const {
  const void* share = FairQueue::PartOf(request, other);
  int64_t num_blocks = 0;
  for (const Sequence* sequence : running_) {
    const RequestState& its = *sequence->request;
    if (share != &its && share != its.share && share != its.share->parent) continue;
    num_blocks += std::ssize(sequence->blocks);
  }
  return num_blocks;
}

void Scheduler::Unplan(Sequence& sequence) {
  if (sequence.num_planned == 0) return;
  const bool is_decode = std::erase(decodes_, &sequence) > 0;
  if (!is_decode) {
    std::erase(chunks_, &sequence);
    stats_.prompt_tokens -= sequence.num_planned;
  }
  budget_ += sequence.num_planned;
  step_cost_ -= RequestCost(sequence.num_planned, sequence.num_computed());
  sequence.num_planned = 0;
}

Sequence* Scheduler::NextToStart(LaneState& lane) {
  // Who has begun goes on first, unless his share has more places than that of somebody who waits.
  RequestState* request = lane.queue.Head();
  Sequence* first = nullptr;
  for (auto it = lane.resumable.begin(); it != lane.resumable.end();
       it = lane.resumable.upper_bound(&(*it)->request->choices.back())) {  // one of each request
    if (first == nullptr || FairQueue::HasFewerPlaces(*(*it)->request, *first->request)) first = *it;
  }
  if (request == nullptr || (first != nullptr && !FairQueue::HasFewerPlaces(*request, *first->request))) return first;
  return &*std::ranges::find(request->choices, SequenceState::kWaiting, &Sequence::state);
}

void Scheduler::Plan(Sequence& sequence, int32_t num_tokens) {
  const bool is_decode = num_tokens == 1 && sequence.num_uncomputed() == 1;
  (is_decode ? decodes_ : chunks_).push_back(&sequence);
  if (!is_decode) stats_.prompt_tokens += num_tokens;
  sequence.num_planned = num_tokens;
  step_cost_ += RequestCost(num_tokens, sequence.num_computed());
  budget_ -= num_tokens;
}

bool Scheduler::TryStart(Sequence& sequence) {
  RequestState& request = *sequence.request;
  // What need not be computed: the prompt that a running sibling has, or what the cache has.
  const Sequence* source = FindForkSource(sequence);
  int32_t reused = source == nullptr ? 0 : std::min(request.prompt_tokens(), MaxReusedTokens(sequence));
  const int32_t num_hits = CountCachedBlocks(sequence, MaxReusedTokens(sequence) / blocks_.block_size());
  if (num_hits * blocks_.block_size() >= reused) {
    source = nullptr;
    reused = num_hits * blocks_.block_size();
  }
  const int32_t num_shared = reused / blocks_.block_size();
  const int32_t num_blocks = blocks_.BlocksFor(sequence.num_tokens());
  const auto shared_block = [&](int32_t i) {
    return source != nullptr ? source->blocks[i] : blocks_.Find(sequence.hashes[i]);
  };
  int32_t num_taken = num_blocks - num_shared;  // of the available ones
  for (int32_t i = 0; i < num_shared; ++i) num_taken += blocks_.IsUsed(shared_block(i)) ? 0 : 1;
  const int32_t reserve = running_.empty() ? 0 : blocks_.num_blocks() / kReserveFraction;
  if (num_taken + reserve > blocks_.num_available()) return false;

  for (int32_t i = 0; i < num_shared; ++i) sequence.blocks.push_back(shared_block(i));
  for (const int32_t block : sequence.blocks) blocks_.Hold(block);
  while (std::ssize(sequence.blocks) < num_blocks) sequence.blocks.push_back(AllocateBlock());
  // Copy on write: the rest of the prompt lies in a block that both will write behind it.
  if (reused % blocks_.block_size() != 0) {
    builder().Copy({.src = source->blocks[num_shared], .dst = sequence.blocks[num_shared]});
  }
  sequence.num_cached = reused;
  FairQueue& queue = LaneOf(request).queue;
  if (sequence.state == SequenceState::kResumable) {
    LaneOf(request).resumable.erase(&sequence);
  } else {
    queue.Start(request);
    LeaveQueue(request);
    request.seniority = next_seniority_++;
    request.lead = sequence.choice;
    request.cached_tokens = std::min(reused, request.prompt_tokens());
    request.queue_ns = now_ns_ - request.arrival_ns;
    if (options_.prefix_cache) stats_.prefix_cache_queries += request.prompt_tokens();
    stats_.prefix_cache_hits += request.cached_tokens;
  }
  sequence.state = SequenceState::kRunning;
  InsertRunning(sequence);
  FairQueue::AddPlaces(request, 1);
  request.start_step = step_;
  // What is computed again after a preemption is not charged again.
  if (sequence.start_step == 0) queue.Charge(request, RequestCost(sequence.num_uncomputed(), sequence.num_cached));
  sequence.start_step = step_;
  Plan(sequence, std::max(Room(sequence), 1));
  return true;
}

void Scheduler::Prepare(Sequence& sequence) {
  const GenerateRequest& request = sequence.request->request;
  sequence.tokens.reserve(request.prompt.size() + request.max_tokens);
  const int32_t num_blocks = blocks_.BlocksFor(static_cast<int32_t>(request.prompt.size()) + request.max_tokens);
  sequence.blocks.reserve(num_blocks);
  sequence.hashes.reserve(num_blocks);
  sequence.tokens = request.prompt;
  if (request.max_tokens > 0 && WantsCounts(request.sampling)) {
    sequence.counts = std::make_unique<TokenCounts>();
    for (const int32_t id : request.prompt) sequence.counts->AddPrompt(id);
  }
  if (request.max_tokens > 0 && request.sampling.no_repeat_ngram_size > 0) {
    sequence.ngrams = std::make_unique<NgramIndex>(&sequence.tokens, request.sampling.no_repeat_ngram_size);
    sequence.ngrams->Update();
  }
  for (const int32_t id : request.generated) Append(sequence, id);
}

void Scheduler::HashBlocks(Sequence& sequence, int32_t num_blocks) {
  const int32_t block_size = blocks_.block_size();
  for (auto i = static_cast<int32_t>(sequence.hashes.size()); i < num_blocks; ++i) {
    const PrefixHash& before = i == 0 ? sequence.request->root : sequence.hashes[i - 1];
    sequence.hashes.push_back(hasher_.Extend(before, std::span(sequence.tokens).subspan(i * block_size, block_size)));
  }
}

int32_t Scheduler::CountCachedBlocks(Sequence& sequence, int32_t max_blocks) {
  if (!options_.prefix_cache) return 0;
  HashBlocks(sequence, max_blocks);
  int32_t num_hits = 0;
  while (num_hits < max_blocks && blocks_.Find(sequence.hashes[num_hits]) != BlockManager::kNone) ++num_hits;
  return num_hits;
}

const Sequence* Scheduler::FindForkSource(const Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  for (const Sequence& sibling : request.choices) {
    // One that starts in this very step has nothing in its blocks yet.
    if (sibling.state == SequenceState::kRunning && sibling.num_cached >= request.prompt_tokens() &&
        sibling.start_step < step_) {
      return &sibling;
    }
  }
  return nullptr;
}

bool Scheduler::GrowOrPreempt(Sequence& sequence, int32_t num_tokens) {
  while (std::ssize(sequence.blocks) < blocks_.BlocksFor(num_tokens)) {
    if (blocks_.num_available() > 0) {
      sequence.blocks.push_back(AllocateBlock());
      continue;
    }
    Sequence& youngest = *running_.back();  // of the batch lane, if one of it runs
    Preempt(youngest);
    if (&youngest == &sequence) return false;
  }
  return true;
}

int32_t Scheduler::AllocateBlock() {
  const int32_t block = blocks_.Allocate();
  if (blocks_.TakeTaint(block)) builder().Zero(block);
  return block;
}

void Scheduler::Preempt(Sequence& sequence) {
  StopRunning(sequence);
  sequence.state = SequenceState::kResumable;
  LaneOf(*sequence.request).resumable.insert(&sequence);
  ++stats_.preemptions;
}

}  // namespace optserve
