#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "engine/config.h"
#include "engine/engine_client.h"
#include "engine/util/log.h"
#include "engine/util/metrics.h"
#include "server/replicas/engine_process.h"
#include "server/replicas/resumption.h"
#include "server/replicas/router.h"

namespace optserve {

// Engine processes that may die, as one engine that does not: starts them, asks each a question before it serves,
// watches them, replaces one that has died or hangs, and gives its unfinished requests, with what their clients have of
// them, to the others or to its successor. A client sees a pause, and then the tokens of an undisturbed run.
//
// Hung is a process that sends nothing for config.step_timeout_seconds, or has work and makes no step for StepDeadline;
// while it loads, one that reads nothing for load_timeout_seconds.
//
// While no engine serves, Submit queues up to config.max_queue requests; deadlines and Cancel work as ever, and Health
// says that the engine is being replaced. An engine that dies max_deaths times within ten minutes is not replaced any
// more; when the last one is given up, everything ends with that status.
//
// A request that was there at max_deaths - 1 deaths in a row is a suspect. Suspects go back one at a time: the next one
// when the last has made a few tokens. Whoever is on this probation at the next death has caused it as far as one can
// tell: it fails alone, and those deaths are forgiven.
//
// Threads  Any thread may call. Events come on the threads that read the engines' frames, and on the supervisor's own
//          for requests that no engine has. The engines are children of that thread.
class Supervisor : public EngineClient {
 public:
  struct Options {
    EngineConfig config;
    int32_t num_replicas = 1;
    int32_t max_deaths = 3;  // in ten minutes
    int32_t load_timeout_seconds = 300;
    // As EngineProcess::Options.
    std::vector<std::string> arguments = {"engine-process"};
    bool engine_is_group = false;
    LoadProgress progress;  // of all engines together
    // Once: OK when every engine has answered; else what is wrong with the first that has not started.
    std::function<void(const absl::Status& status)> on_started;
    // Once, after all requests have ended: the last engine is given up.
    std::function<void(const absl::Status& why)> on_given_up;
    Metrics* metrics = nullptr;  // may be nullptr; outlives the object
    const Log* log = nullptr;    // the same
  };

  explicit Supervisor(Options options);
  ~Supervisor() override;  // ends the engines; what is unfinished ends with Unavailable, shutting_down

  const ModelInfo& model() const override { return model_; }  // after on_started(OK)
  absl::Status Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override;
  void Cancel(RequestId id) override;
  void CancelChoice(RequestId id, int32_t choice) override;
  void Drain() override;
  EngineStats Stats() const override;                                  // of all engines, those that died included
  std::vector<StepRecord> RecentSteps(uint64_t after) const override;  // of those that live, each by itself
  absl::Status Health() const override;

  std::vector<pid_t> pids() const;  // of the engines that run

 private:
  using Clock = std::chrono::steady_clock;
  class ReplicaSink;
  class Deliveries;

  struct Live : UnfinishedRequest {
    using UnfinishedRequest::UnfinishedRequest;
    uint64_t arrival = 0;
    int32_t replica = -1;             // who computes it; -1: it is parked
    std::vector<RequestId> parts;     // its requests there
    bool is_new = true;               // no engine has had it
    int32_t num_deaths = 0;           // in a row, that it was there at
    int32_t tokens_of_probation = 0;  // that it has still to make
  };
  struct Part {
    Live* live = nullptr;
    int32_t first_answer = 0;
    int32_t num_answers = 1;
  };

  struct Replica {
    enum State { kLoading, kAsked, kServing, kDying, kGone, kGivenUp };
    State state = kGone;
    int32_t generation = 0;
    std::unique_ptr<EngineProcess> process;
    std::shared_ptr<TokenSink> sink;
    RequestId question = 0;
    Clock::time_point start_at;      // when the next process is due, while kGone
    Clock::time_point start;         // of the process
    Clock::time_point watched_from;  // silence before it says nothing
    std::deque<Clock::time_point> deaths;
    bool is_death_explained = false;  // by a request that has been failed for it
    EngineStats retired;              // counters of its processes that have died
    std::pair<int64_t, int64_t> progress;
    bool has_answered = false;  // ever
    // News for the supervisor's thread.
    std::vector<absl::Status> started;
    std::vector<absl::Status> died;
  };

  // The supervisor's thread, and what it does.
  void Run();
  void StartProcess(size_t index);
  void OnStarted(size_t index, const absl::Status& status);
  void OnDeath(size_t index, const absl::Status& why);
  void Ask(Replica& replica) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Watch(Clock::time_point now);
  void TendParked();
  void EndParkedInVain();
  bool PlaceParked(uint64_t& next_arrival);
  void GiveUp(const absl::Status& why);
  void EndAll(const absl::Status& error);
  void ReportStart(const absl::Status& status);

  // The threads of the engines.
  void OnEvents(size_t index, std::vector<TokenEvent> events);
  void OnAnswer(size_t index, const TokenEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnEvent(size_t index, TokenEvent event, Deliveries& deliveries) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnLost(size_t index, Live& live, Deliveries& deliveries) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Hands what is left of `live` to an engine, or parks it. An error: neither, and nobody was told.
  absl::Status Place(Live& live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Park(Live& live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Unpark(Live& live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsSuspect(const Live& live) const;
  void EndProbation(Live& live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Ends all answers that have not ended, and the request with them.
  void Finish(Live& live, const TokenEvent& last_event, Deliveries& deliveries) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Erase(Live& live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status HealthLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  ModelInfo model_;  // written before on_started, constant afterwards

  mutable std::mutex mu_;  // before the engines' own
  std::condition_variable changed_;
  bool has_news_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool is_start_reported_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);  // not OK: given up
  absl::Status last_death_ ABSL_GUARDED_BY(mu_);
  std::vector<Replica> replicas_ ABSL_GUARDED_BY(mu_);  // never resized
  Router router_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<RequestId, std::unique_ptr<Live>> live_ ABSL_GUARDED_BY(mu_);  // by the client's id
  std::unordered_map<RequestId, Part> parts_ ABSL_GUARDED_BY(mu_);                  // by the engine's
  std::map<uint64_t, Live*> parked_ ABSL_GUARDED_BY(mu_);                           // by arrival
  int64_t num_parked_new_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t parked_new_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  Live* on_probation_ ABSL_GUARDED_BY(mu_) = nullptr;
  RequestId next_part_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t next_arrival_ ABSL_GUARDED_BY(mu_) = 1;

  std::thread thread_;
};

}  // namespace optserve
