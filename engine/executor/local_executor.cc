#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/comm/communicator.h"
#include "engine/executor/executor.h"
#include "engine/executor/gpu_memory_plan.h"
#include "engine/executor/kv_pool_size.h"
#include "engine/executor/load_problems.h"
#include "engine/executor/overlapped_executor.h"
#include "engine/executor/rank_setup.h"
#include "engine/executor/rank_worker.h"
#include "engine/executor/step_work.h"
#include "engine/model/kv_cache.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_config.h"
#include "engine/model/opt_weights.h"
#include "engine/planner/cost_model.h"
#include "engine/util/log.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "kernels/common/thread_pool.h"

namespace optserve {
namespace {

constexpr int kReaders = 4;  // threads that read weights, of all ranks together
constexpr int kMinReaders = 2;

// All ranks in this process, a thread each; rank 0 is the caller's.
class LocalExecutor final : public Executor {
 public:
  explicit LocalExecutor(EngineConfig config) : config_(std::move(config)) {}
  ~LocalExecutor() override {
    for (RankWorker& rank : ranks_) rank.LeaveGroup();
  }
  LocalExecutor(const LocalExecutor&) = delete;
  LocalExecutor& operator=(const LocalExecutor&) = delete;

  absl::StatusOr<StartResult> Start(const LoadProgress& progress) override {
    OPTSERVE_ASSIGN_OR_RETURN(OpenedModel model, OpenModelFor(config_));
    checkpoint_ = std::move(model.checkpoint);
    model_config_ = std::move(model.config);
    OPTSERVE_ASSIGN_OR_RETURN(OptTensors tensors, OptTensors::Match(model_config_, *checkpoint_));
    OPTSERVE_RETURN_IF_ERROR(MakeRanks(tensors));
    OPTSERVE_RETURN_IF_ERROR(LoadWeights(tensors, progress));

    OPTSERVE_ASSIGN_OR_RETURN(const KvBudget kv, SizePool());
    const StepLimits limits = LimitsOf(config_, model_config_);
    for (RankWorker& rank : ranks_) OPTSERVE_RETURN_IF_ERROR(rank.Allocate(kv, limits));
    OPTSERVE_RETURN_IF_ERROR(
        OnAllRanks([&](RankWorker& rank) { return CaptureDecodeGraphs(config_, model_config_, rank); }));

    demand_.emplace(MakeDemandModel(config_, model_config_, tensors));
    StartResult started = MakeStartResult(config_, model_config_, tensors, kv);
    if (queues_steps()) started.max_steps_in_flight = config_.steps_in_flight;
    return started;
  }

  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    Submit(plan);
    return Collect();
  }

  // A GPU runs behind the calls, so what it is to do next is queued now. On the CPU a step is computed when it is
  // collected, by each rank from its beginning to its end.
  void Submit(const StepPlan& plan) override {
    demands_.push_back(demand_->Demand(WorkOf(plan)));
    if (!queues_steps()) return Executor::Submit(plan);
    if (failed_.ok()) failed_ = OnEachRank([&](RankWorker& rank) { return rank.Submit(plan); });
  }
  absl::StatusOr<StepResult> Collect() override {
    if (!queues_steps()) {
      failed_ = OnEachRank([&, plan = TakeSubmitted()](RankWorker& rank) { return Keep(rank, rank.Execute(*plan)); });
    } else if (failed_.ok()) {
      failed_ = OnEachRank([&](RankWorker& rank) { return Keep(rank, rank.Collect()); });
    }
    if (!failed_.ok()) return failed_;
    result_.demand = demands_.front();
    demands_.pop_front();
    return std::move(result_);
  }

  // Those that have come to the fewest collectives. All of them, if none waits for another.
  std::string WhoIsBehind() const override {
    if (ranks_.size() == 1) return "rank 0";
    std::vector<uint64_t> arrivals;
    for (const RankWorker& rank : ranks_) arrivals.push_back(rank.comm().num_arrivals());
    const uint64_t fewest = *std::ranges::min_element(arrivals);
    std::string names;
    for (size_t rank = 0; rank < arrivals.size(); ++rank) {
      if (arrivals[rank] == fewest) names += fmt::format("{}rank {}", names.empty() ? "" : ", ", rank);
    }
    return names;
  }

 private:
  bool queues_steps() const { return config_.device == DeviceChoice::kCuda; }

  // A part of a step, on all ranks at once.
  absl::Status OnEachRank(const std::function<absl::Status(RankWorker&)>& call) {
    if (ranks_.size() == 1) {
      absl::Status status = call(ranks_[0]);
      return status.ok() ? status : Within("rank 0", status);
    }
    std::atomic<bool> has_failed = false;
    threads_->RunOnAll([&](int index) {
      RankWorker& rank = ranks_[index];
      const absl::Status status = call(rank);
      if (status.ok()) return;
      // The others may wait for it in a collective. Who was there first says why all of them fail.
      rank.comm().Abort(Within(fmt::format("rank {}", index), status));
      has_failed = true;
    });
    return has_failed ? ranks_[0].comm().Check() : absl::OkStatus();
  }

  // Rank 0's result is the step's.
  absl::Status Keep(const RankWorker& rank, absl::StatusOr<StepResult> result) {
    if (!result.ok()) return result.status();
    if (&rank == &ranks_[0]) result_ = *std::move(result);
    return absl::OkStatus();
  }

  absl::StatusOr<KvBudget> SizePool() {
    if (config_.device != DeviceChoice::kCuda) {
      const KvCache::Shape shape{.num_layers = model_config_.num_layers,
                                 .num_heads = model_config_.num_heads,
                                 .head_size = model_config_.head_size()};
      return SizeKvPool(config_, MaxModelLen(config_, model_config_), KvCache::BytesPerToken(shape),
                        AvailableMemoryBytes());
    }
    size_t fullest = 0;
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      free_bytes_[rank].loaded = ranks_[rank].backend().FreeBytes();
      if (free_bytes_[rank].loaded < free_bytes_[fullest].loaded) fullest = rank;
    }
    const Backend& backend = ranks_[fullest].backend();
    const DeviceInfo& info = backend.info();
    OPTSERVE_ASSIGN_OR_RETURN(const PlannedGpu planned,
                              PlanGpuMemory(config_, model_config_,
                                            {.rank = static_cast<int>(fullest),
                                             .total = info.memory_bytes,
                                             .workspace = backend.workspace_bytes(),
                                             .free = free_bytes_[fullest],
                                             .activation_dtype = info.activation_dtype,
                                             .with_graphs = ranks_[0].WhyNoGraphs().empty()}));
    LogGpuMemoryPlan(planned);
    return planned.kv;
  }

  // Each on its own thread: they wait for each other.
  absl::Status OnAllRanks(const std::function<absl::Status(RankWorker&)>& call) {
    if (ranks_.size() == 1) return call(ranks_[0]);
    std::vector<absl::Status> results(ranks_.size());
    threads_->RunOnAll([&](int rank) { results[rank] = call(ranks_[rank]); });
    for (absl::Status& status : results) OPTSERVE_RETURN_IF_ERROR(std::move(status));
    return absl::OkStatus();
  }

  absl::Status MakeRanks(const OptTensors& tensors) {
    const int num_ranks = config_.tensor_parallel_size;
    const int num_threads =
        config_.num_threads > 0 ? config_.num_threads : static_cast<int>(std::thread::hardware_concurrency());
    const bool cuda = config_.device == DeviceChoice::kCuda;
    std::vector<std::unique_ptr<Backend>> backends;
    std::vector<Backend*> group;
    for (int rank = 0; rank < num_ranks; ++rank) {
      // The first ranks get what does not divide.
      const int threads = num_threads / num_ranks + (rank < num_threads % num_ranks ? 1 : 0);
      OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                                MakeBackend({.kind = cuda ? DeviceKind::kCuda : DeviceKind::kCpu,
                                             .index = config_.first_device + rank,
                                             .num_threads = std::max(1, threads)}));
      if (cuda) OPTSERVE_RETURN_IF_ERROR(CheckWeightsFit(config_, tensors, *backend));
      free_bytes_.push_back({.opened = backend->FreeBytes()});
      group.push_back(backend.get());
      backends.push_back(std::move(backend));
    }
    OPTSERVE_ASSIGN_OR_RETURN(RankGroup joined,
                              JoinRanks(group, std::max(model_config_.hidden_size, model_config_.embed_size)));
    if (num_ranks > 1 && cuda) Log(LogFormat::kText).Info("ranks_joined", {{"by", joined.how}});
    if (config_.deterministic_tp && !joined.ranks[0]->sums_as_tree()) {
      return FailedPrecondition(
          "--deterministic-tp is set, but ranks add up by {}, in an order of its own; leave it out", joined.how);
    }
    for (int rank = 0; rank < num_ranks; ++rank) {
      free_bytes_[rank].joined = backends[rank]->FreeBytes();
      ranks_.emplace_back(model_config_, std::move(backends[rank]), std::move(joined.ranks[rank]),
                          config_.deterministic_tp);
    }
    if (num_ranks > 1) threads_ = std::make_unique<ThreadPool>(num_ranks);
    if (config_.steps_in_flight == 0) {
      config_.steps_in_flight = queues_steps() && !ranks_[0].comm().check_waits_for_all() ? 2 : 1;
    }
    return absl::OkStatus();
  }

  // All ranks at a time, each its own part, so that none waits for another's copies.
  absl::Status LoadWeights(const OptTensors& tensors, const LoadProgress& progress) {
    const int num_ranks = config_.tensor_parallel_size;
    int64_t total_bytes = 0;
    for (int rank = 0; rank < num_ranks; ++rank) {
      for (const ByteRegion& region : BytesOfShard(model_config_, tensors, {.rank = rank, .size = num_ranks})) {
        total_bytes += region.num_bytes();
      }
    }
    std::mutex mu;
    int64_t done_bytes = 0;
    LoadOptions options{.num_readers = std::max(kMinReaders, kReaders / num_ranks)};
    if (progress) {
      progress(0, total_bytes);
      options.progress = [&](int64_t bytes) {
        const std::lock_guard lock(mu);
        done_bytes += bytes;
        progress(done_bytes, total_bytes);
      };
    }
    return LoadAndVerify(config_, /*compare_checksums=*/true, options,
                         [&](const LoadOptions& with) { return LoadRanks(tensors, with); });
  }

  absl::Status LoadRanks(const OptTensors& tensors, const LoadOptions& options) {
    return OnAllRanks([&](RankWorker& rank) { return rank.LoadWeights(tensors, options); });
  }

  EngineConfig config_;
  OptConfig model_config_;
  std::optional<CostModel> demand_;         // of model_config_, once started
  std::unique_ptr<Checkpoint> checkpoint_;  // outlives the ranks, whose weights are views of it
  std::vector<RankWorker> ranks_;
  std::vector<GpuFreeBytes> free_bytes_;  // by rank
  std::deque<StepDemand> demands_;        // of the steps under way
  StepResult result_;
  absl::Status failed_;  // of a step; there is no other after it
  std::unique_ptr<ThreadPool> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> MakeLocalExecutor(const EngineConfig& config) {
  EngineConfig chosen = config;
  ChooseDevice(chosen);
  auto executor = std::make_unique<LocalExecutor>(chosen);
  // On the CPU the ranks need the processors that planning would take, and a request that comes during a step would
  // wait for one more: adr/0007. A GPU's ranks queue steps by themselves.
  if (chosen.steps_in_flight < 2 || chosen.device == DeviceChoice::kCuda) return executor;
  return std::make_unique<OverlappedExecutor>(std::move(executor));
}

}  // namespace optserve
