#include "server/replicas/supervisor.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <thread>
#include <utility>

#include "engine/util/status.h"
#include "server/replicas/supervisor_errors.h"

// The supervisor's requests: who computes each, what its client has of it, and where it goes when its engine dies.
// supervisor.cc has the engines.

namespace optserve {
namespace {

constexpr int32_t kProbationTokens = 4;  // more than a crash may have lost on their way up

// Thousands of requests move in turns of this length: whoever else wants the lock, threads that answer probes among
// them, gets it in between.
constexpr std::chrono::milliseconds kTurn{2};
constexpr std::chrono::microseconds kBetweenTurns{200};

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

// What clients are to be told once the lock is released: one call for each sink.
class Supervisor::Deliveries {
 public:
  void Add(const Live& live, TokenEvent event) {
    event.request = live.request.id;
    const auto [entry, is_new] = places_.try_emplace(live.sink.get(), all_.size());
    if (is_new) all_.emplace_back(live.sink, std::vector<TokenEvent>());
    all_[entry->second].second.push_back(std::move(event));
  }

  void Deliver() {
    for (auto& [sink, events] : all_) sink->OnEvents(std::move(events));
  }

 private:
  std::vector<std::pair<std::shared_ptr<TokenSink>, std::vector<TokenEvent>>> all_;
  std::unordered_map<TokenSink*, size_t> places_;
};

// --- what the front end asks -----------------------------------------------------------------------------------------

absl::Status Supervisor::Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) {
  if (const absl::Status status = CheckRequest(request, model_); !status.ok()) return status;
  const std::lock_guard lock(mu_);
  if (!failure_.ok()) return failure_;
  if (draining_ || stopping_) return ShuttingDown();
  const RequestId id = request.id;
  if (live_.contains(id)) return InvalidArgument("request id {} is in use", id);
  const bool is_anybody_serving =
      std::ranges::any_of(replicas_, [](const Replica& replica) { return replica.state == Replica::kServing; });
  if (!is_anybody_serving && num_parked_new_ > 0 &&
      (num_parked_new_ >= options_.config.max_queue ||
       parked_new_tokens_ + std::ssize(request.prompt) > options_.config.max_queue_tokens)) {
    return WithRetryAfter(
        ResourceExhausted("the engine is being replaced and the queue is full: {} requests wait", num_parked_new_),
        kSupervisorRetryAfterSeconds);
  }
  auto owned = std::make_unique<Live>(std::move(request), std::move(sink));
  Live& live = *owned;
  live.arrival = next_arrival_++;
  live_.emplace(id, std::move(owned));
  const absl::Status status = Place(live);
  if (!status.ok()) Erase(live);
  return status;
}

void Supervisor::Cancel(RequestId id) {
  const std::lock_guard lock(mu_);
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  Live& live = *found->second;
  for (UnfinishedRequest::Answer& answer : live.answers) answer.is_cancelled = true;
  if (live.replica < 0) return Wake();
  for (const RequestId part : live.parts) replicas_[static_cast<size_t>(live.replica)].process->Cancel(part);
}

void Supervisor::CancelChoice(RequestId id, int32_t choice) {
  const std::lock_guard lock(mu_);
  const auto found = live_.find(id);
  if (found == live_.end() || choice < 0 || choice >= found->second->request.num_choices) return;
  Live& live = *found->second;
  live.answers[static_cast<size_t>(choice)].is_cancelled = true;
  if (live.replica < 0) return Wake();
  for (const RequestId id_there : live.parts) {
    const Part& part = parts_.find(id_there)->second;
    const int32_t choice_there = choice - part.first_answer;
    if (choice_there < 0 || choice_there >= part.num_answers) continue;
    replicas_[static_cast<size_t>(live.replica)].process->CancelChoice(id_there, choice_there);
  }
}

void Supervisor::Drain() {
  const std::lock_guard lock(mu_);
  draining_ = true;  // the engines need not know: what was accepted may still have to move to another
}

// --- where requests go -----------------------------------------------------------------------------------------------

absl::Status Supervisor::Place(Live& live) {
  std::vector<bool> available(replicas_.size());
  for (size_t i = 0; i < replicas_.size(); ++i) available[i] = replicas_[i].state == Replica::kServing;
  const int32_t index = router_.Pick(live.request, available);
  if (index < 0) {
    Park(live);
    return absl::OkStatus();
  }
  Replica& replica = replicas_[static_cast<size_t>(index)];
  std::vector<ResumedPart> parts = WhatIsLeft(live);
  for (ResumedPart& part : parts) {
    part.request.id = next_part_++;
    part.request.admitted = part.request.admitted || !live.is_new;
    const RequestId id = part.request.id;
    const int32_t num_answers = part.request.num_choices;
    const absl::Status status = replica.process->Submit(std::move(part.request), replica.sink);
    if (status.ok()) {
      live.replica = index;
      live.parts.push_back(id);
      parts_.emplace(id, Part{.live = &live, .first_answer = part.first_answer, .num_answers = num_answers});
      continue;
    }
    if (IsEngineDeath(status)) {
      // Its last frames are on their way. The parts that it took come back as lost.
      replica.state = Replica::kDying;
      if (live.parts.empty()) Park(live);
      break;
    }
    for (const RequestId taken : live.parts) {
      replica.process->Cancel(taken);
      parts_.erase(taken);
    }
    live.parts.clear();
    live.replica = -1;
    return status;
  }
  if (live.replica < 0) return absl::OkStatus();
  live.is_new = false;
  router_.Add(index, live.request);
  return absl::OkStatus();
}

void Supervisor::Park(Live& live) {
  live.replica = -1;
  parked_.emplace(live.arrival, &live);
  if (live.is_new) {
    ++num_parked_new_;
    parked_new_tokens_ += std::ssize(live.request.prompt);
  }
}

void Supervisor::Unpark(Live& live) {
  parked_.erase(live.arrival);
  if (live.is_new) {
    --num_parked_new_;
    parked_new_tokens_ -= std::ssize(live.request.prompt);
  }
}

bool Supervisor::IsSuspect(const Live& live) const {
  return live.num_deaths > 0 && live.num_deaths >= options_.max_deaths - 1;
}

void Supervisor::EndProbation(Live& live) {
  live.num_deaths = 0;
  on_probation_ = nullptr;
  Wake();  // the next suspect may go
}

void Supervisor::Finish(Live& live, const TokenEvent& last_event, Deliveries& deliveries) {
  for (size_t i = 0; i < live.answers.size(); ++i) {
    if (live.answers[i].is_finished) continue;
    TokenEvent event = last_event;
    event.choice = static_cast<int32_t>(i);
    live.Note(event);
    deliveries.Add(live, std::move(event));
  }
  Erase(live);
}

void Supervisor::Erase(Live& live) {
  if (on_probation_ == &live) EndProbation(live);
  if (live.replica >= 0) router_.Remove(live.replica, live.request);
  live_.erase(live.request.id);
}

void Supervisor::TendParked() {
  EndParkedInVain();
  uint64_t next_arrival = 0;
  while (PlaceParked(next_arrival)) std::this_thread::sleep_for(kBetweenTurns);
}

// Those that were cancelled or whose deadline has passed.
void Supervisor::EndParkedInVain() {
  Deliveries deliveries;
  {
    const std::lock_guard lock(mu_);
    const int64_t now_ns = NowNs();
    for (auto next = parked_.begin(); next != parked_.end();) {
      Live& live = *next++->second;
      for (size_t i = 0; i < live.answers.size(); ++i) {
        if (!live.answers[i].is_cancelled || live.answers[i].is_finished) continue;
        TokenEvent event = {.choice = static_cast<int32_t>(i), .finish = FinishReason::kCancelled};
        live.Note(event);
        deliveries.Add(live, std::move(event));
      }
      if (live.num_unfinished == 0) {
        Unpark(live);
        Erase(live);
      } else if (live.request.deadline_ns != 0 && live.request.deadline_ns <= now_ns) {
        Unpark(live);
        Finish(live, {.finish = FinishReason::kDeadline}, deliveries);
      }
    }
  }
  deliveries.Deliver();
}

// If an engine serves, hands it the next few. False: there are no more.
bool Supervisor::PlaceParked(uint64_t& next_arrival) {
  Deliveries deliveries;
  bool are_there_more = false;
  {
    const std::lock_guard lock(mu_);
    const Clock::time_point begin = Clock::now();
    const bool is_anybody_serving =
        std::ranges::any_of(replicas_, [](const Replica& replica) { return replica.state == Replica::kServing; });
    for (auto next = parked_.lower_bound(next_arrival); is_anybody_serving && next != parked_.end();) {
      are_there_more = Clock::now() - begin > kTurn;
      if (are_there_more) break;
      Live& live = *next++->second;
      next_arrival = live.arrival + 1;
      if (IsSuspect(live)) {
        if (on_probation_ != nullptr && on_probation_ != &live) continue;
        on_probation_ = &live;
        live.tokens_of_probation = kProbationTokens;
      }
      Unpark(live);
      const absl::Status status = Place(live);
      if (!status.ok()) Finish(live, {.finish = FinishReason::kError, .error = status}, deliveries);
    }
  }
  deliveries.Deliver();
  return are_there_more;
}

void Supervisor::EndAll(const absl::Status& error) {
  Deliveries deliveries;
  {
    const std::lock_guard lock(mu_);
    while (!live_.empty()) {
      Live& live = *live_.begin()->second;
      if (live.replica < 0) Unpark(live);
      for (const RequestId part : live.parts) parts_.erase(part);
      Finish(live, {.finish = FinishReason::kError, .error = error}, deliveries);
    }
  }
  deliveries.Deliver();
}

// --- what the engines say --------------------------------------------------------------------------------------------

void Supervisor::OnEvents(size_t index, std::vector<TokenEvent> events) {
  Deliveries deliveries;
  {
    const std::lock_guard lock(mu_);
    for (TokenEvent& event : events) {
      if (event.request == replicas_[index].question) {
        OnAnswer(index, event);
      } else {
        OnEvent(index, std::move(event), deliveries);
      }
    }
  }
  deliveries.Deliver();
}

void Supervisor::OnEvent(size_t index, TokenEvent event, Deliveries& deliveries) {
  const auto found = parts_.find(event.request);
  if (found == parts_.end()) return;
  const auto [part_id, part] = *found;
  Live& live = *part.live;
  const bool is_lost = event.finish == FinishReason::kError && IsEngineDeath(event.error) && !stopping_;
  event.choice += part.first_answer;
  if (!is_lost) {
    UnfinishedRequest::Answer& answer = live.answers[static_cast<size_t>(event.choice)];
    if (answer.is_finished) return;
    live.Note(event);
    if (on_probation_ == &live && event.token.has_value() && --live.tokens_of_probation == 0) EndProbation(live);
    // Its part is done when all of the request is, or when it is a part of one answer.
    const bool is_part_done = event.finish != FinishReason::kNone && live.parts.size() > 1;
    deliveries.Add(live, std::move(event));
    if (live.num_unfinished == 0) {
      for (const RequestId id : live.parts) parts_.erase(id);
      return Erase(live);
    }
    if (!is_part_done) return;
  } else if (live.parts.size() == 1) {
    parts_.erase(part_id);
    live.parts.clear();
    return OnLost(index, live, deliveries);
  }
  parts_.erase(part_id);
  std::erase(live.parts, part_id);
}

void Supervisor::OnLost(size_t index, Live& live, Deliveries& deliveries) {
  replicas_[index].state = Replica::kDying;
  router_.Remove(live.replica, live.request);
  live.replica = -1;
  ++live.num_deaths;
  if (on_probation_ != &live) return Park(live);
  replicas_[index].is_death_explained = true;
  const absl::Status error =
      WithErrorCode(Internal("the engine has died {} times at this request", live.num_deaths), "request_kills_engine");
  if (options_.log != nullptr) {
    options_.log->Error(
        "request_kills_engine",
        {{"deaths", live.num_deaths}, {"prompt_tokens", live.request.prompt.size()}, {"key", live.request.api_key_id}});
  }
  Finish(live, {.finish = FinishReason::kError, .error = error}, deliveries);
}

}  // namespace optserve
