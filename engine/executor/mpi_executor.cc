#include "engine/executor/mpi_executor.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/comm/mpi_communicator.h"
#include "engine/comm/mpi_nccl_communicator.h"
#include "engine/comm/nccl_communicator.h"
#include "engine/executor/gpu_memory_plan.h"
#include "engine/executor/kv_pool_size.h"
#include "engine/executor/load_problems.h"
#include "engine/executor/overlapped_executor.h"
#include "engine/executor/rank_setup.h"
#include "engine/executor/rank_worker.h"
#include "engine/executor/step_work.h"
#include "engine/model/kv_cache.h"
#include "engine/scheduler/step_plan_bytes.h"
#include "engine/util/fault_injection.h"
#include "engine/util/log.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "engine/util/step_deadline.h"
#include "kernels/common/cuda_device.h"

namespace optserve {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kQuestionPeriod{1};
// Three of them before mpirun kills us, with time left to say who did not answer.
constexpr std::chrono::milliseconds kLastAnswerTime{250};
constexpr int kReaders = 4;  // threads that read weights, of all ranks of a host together

// What rank 0 sends: one of these letters, and what belongs to it.
constexpr char kStart = 'S';     // replica and generation, int32 each, and the configuration
constexpr char kJoin = 'J';      // NCCL's id, on GPUs
constexpr char kPool = 'K';      // the KV cache's number of blocks, int32
constexpr char kCapture = 'C';   // is to capture graphs
constexpr char kPlan = 'P';      // a plan's bytes
constexpr char kQuestion = 'Q';  // is to be answered with nothing
constexpr char kEnd = 'E';

// Fixed-size values at the end of a letter or of an answer.
template <typename T>
void Put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <typename T>
absl::StatusOr<T> Take(std::string_view& bytes) {
  T value = {};
  if (bytes.size() < sizeof(T)) return Internal("a message of the group ended early");
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

// How a rank reports a stage of the start: code and text of its status, and a number.
std::string Report(const absl::Status& status, int64_t number) {
  std::string bytes;
  Put(bytes, static_cast<int32_t>(status.code()));
  Put(bytes, number);
  bytes += std::string(status.message());
  return bytes;
}

// Of a stage without a number.
absl::StatusOr<int64_t> NumberOr(const absl::Status& status) {
  if (!status.ok()) return status;
  return 0;
}

absl::StatusOr<int64_t> ReadReport(std::string_view bytes) {
  OPTSERVE_ASSIGN_OR_RETURN(const auto code, Take<int32_t>(bytes));
  OPTSERVE_ASSIGN_OR_RETURN(const auto number, Take<int64_t>(bytes));
  if (code != 0) return absl::Status(static_cast<absl::StatusCode>(code), std::string(bytes));
  return number;
}

// One process's rank: its part of the model, from the files to the steps.
class MpiRank {
 public:
  MpiRank(MpiGroup& group, EngineConfig config) : group_(group), config_(std::move(config)) {}

  // What the configuration leaves open, for all ranks alike.
  void ChooseDevice() { optserve::ChooseDevice(config_); }
  bool on_gpus() const { return config_.device == DeviceChoice::kCuda; }

  // The model and this rank's device. Returns which GPU of its machine that is.
  absl::StatusOr<int64_t> Open() {
    if (config_.tensor_parallel_size != group_.size()) {
      return InvalidArgument(
          "--tensor-parallel-size is {}, but the launcher started {} processes, and each is one rank; make them equal",
          config_.tensor_parallel_size, group_.size());
    }
    OPTSERVE_ASSIGN_OR_RETURN(OpenedModel model, OpenModelFor(config_));
    checkpoint_ = std::move(model.checkpoint);
    model_config_ = std::move(model.config);
    OPTSERVE_ASSIGN_OR_RETURN(tensors_, OptTensors::Match(model_config_, *checkpoint_));
    const int neighbours = group_.ranks_on_this_host();
    const int num_threads =
        config_.num_threads > 0 ? config_.num_threads : static_cast<int>(std::thread::hardware_concurrency());
    if (!on_gpus()) {
      OPTSERVE_ASSIGN_OR_RETURN(
          backend_, MakeBackend({.kind = DeviceKind::kCpu, .num_threads = std::max(1, num_threads / neighbours)}));
      return 0;
    }
    const int replica = config_.first_device / config_.tensor_parallel_size;  // each has as many ranks on this machine
    OPTSERVE_ASSIGN_OR_RETURN(backend_, MakeBackend({.kind = DeviceKind::kCuda,
                                                     .index = replica * neighbours + group_.rank_on_this_host(),
                                                     .or_only = true}));
    OPTSERVE_RETURN_IF_ERROR(CheckWeightsFit(config_, tensors_, *backend_));
    free_bytes_.opened = backend_->FreeBytes();
    return backend_->cuda_device()->identity();
  }

  // `id`: rank 0's, of NCCL's group; nothing on the CPU.
  absl::Status Join(std::string_view id) {
    std::unique_ptr<Communicator> comm;
    if (on_gpus()) {
      OPTSERVE_ASSIGN_OR_RETURN(const auto nccl_id, Take<nccl::UniqueId>(id));
      OPTSERVE_ASSIGN_OR_RETURN(comm, MakeMpiNcclCommunicator(group_, nccl_id, *backend_));
      free_bytes_.joined = backend_->FreeBytes();
    } else {
      comm = MakeMpiCommunicator(group_);
    }
    worker_.emplace(model_config_, std::move(backend_), std::move(comm), config_.deterministic_tp);
    return absl::OkStatus();
  }

  // Returns how many KV blocks this rank's GPU has room for, or its machine.
  absl::StatusOr<int64_t> Load(const LoadProgress& progress) {
    OPTSERVE_RETURN_IF_ERROR(LoadWeights(progress));
    OPTSERVE_ASSIGN_OR_RETURN(const KvBudget kv, on_gpus() ? SizeGpuPool() : SizePool());
    return kv.num_blocks;
  }

  absl::Status CaptureGraphs() { return CaptureDecodeGraphs(config_, model_config_, *worker_); }

  absl::Status Allocate(int32_t num_blocks) {
    return worker_->Allocate({.num_blocks = num_blocks, .block_size = config_.block_size},
                             LimitsOf(config_, model_config_));
  }

  absl::StatusOr<StepResult> Execute(const StepPlan& plan) {
    absl::StatusOr<StepResult> result = OfRank(group_.Name(group_.rank()), worker_->Execute(plan));
    if (!result.ok()) {
      worker_->comm().Abort(result.status());
      return group_.status();  // the first error, which may be another rank's
    }
    return result;
  }

  const EngineConfig& config() const { return config_; }
  CostModel MakeDemand() const { return MakeDemandModel(config_, model_config_, tensors_); }
  StartResult started(const KvBudget& kv) const { return MakeStartResult(config_, model_config_, tensors_, kv); }

 private:
  absl::StatusOr<KvBudget> SizePool() const {
    const KvCache::Shape shape{.num_layers = model_config_.num_layers,
                               .num_heads = model_config_.num_heads,
                               .head_size = model_config_.head_size()};
    const int64_t available_bytes = AvailableMemoryBytes() / group_.ranks_on_this_host() * group_.size();
    return SizeKvPool(config_, MaxModelLen(config_, model_config_), KvCache::BytesPerToken(shape), available_bytes);
  }

  absl::StatusOr<KvBudget> SizeGpuPool() {
    Backend& backend = worker_->backend();
    free_bytes_.loaded = backend.FreeBytes();
    OPTSERVE_ASSIGN_OR_RETURN(const PlannedGpu planned,
                              PlanGpuMemory(config_, model_config_,
                                            {.rank = group_.rank(),
                                             .total = backend.info().memory_bytes,
                                             .workspace = backend.workspace_bytes(),
                                             .free = free_bytes_,
                                             .activation_dtype = backend.info().activation_dtype,
                                             .with_graphs = worker_->WhyNoGraphs().empty()}));
    LogGpuMemoryPlan(planned);
    return planned.kv;
  }

  // Progress is this rank's, times their number: they read alike.
  absl::Status LoadWeights(const LoadProgress& progress) {
    int64_t total_bytes = 0;
    const Shard shard{.rank = group_.rank(), .size = group_.size()};
    for (const ByteRegion& region : BytesOfShard(model_config_, tensors_, shard)) total_bytes += region.num_bytes();
    LoadOptions options{.num_readers = std::max(1, kReaders / group_.ranks_on_this_host())};
    std::mutex mu;
    int64_t done_bytes = 0;
    if (progress) {
      progress(0, total_bytes * group_.size());
      options.progress = [&](int64_t bytes) {
        const std::lock_guard lock(mu);
        done_bytes += bytes;
        progress(done_bytes * group_.size(), total_bytes * group_.size());
      };
    }
    return LoadAndVerify(config_, /*compare_checksums=*/group_.rank() == 0, options,
                         [&](const LoadOptions& with) { return worker_->LoadWeights(tensors_, with); });
  }

  MpiGroup& group_;
  EngineConfig config_;
  std::unique_ptr<Checkpoint> checkpoint_;  // outlives the worker, whose weights are views of it
  OptConfig model_config_;
  OptTensors tensors_;
  std::unique_ptr<Backend> backend_;  // until the worker has it
  GpuFreeBytes free_bytes_;
  std::optional<RankWorker> worker_;
};

class MpiExecutor final : public Executor {
 public:
  MpiExecutor(MpiGroup& group, const EngineConfig& config)
      : group_(group), rank_(group, config), waiting_([this] { WaitForLauncher(); }) {}

  ~MpiExecutor() override {
    {
      const std::lock_guard lock(mu_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (asking_.joinable()) asking_.join();
    pthread_kill(waiting_.native_handle(), SIGTERM);
    waiting_.join();
    if (group_.status().ok()) (void)group_.SendToOthers({&kEnd, 1});  // who cannot be told is gone
  }

  absl::StatusOr<StartResult> Start(const LoadProgress& progress) override {
    rank_.ChooseDevice();
    std::string start{kStart};
    Put(start, CurrentFaultScope().replica);
    Put(start, CurrentFaultScope().generation);
    start += EngineConfigToJson(rank_.config());
    OPTSERVE_RETURN_IF_ERROR(group_.SendToOthers(start));
    OPTSERVE_ASSIGN_OR_RETURN(const std::vector<int64_t> gpus, Reports(rank_.Open()));
    std::string join{kJoin};
    if (rank_.on_gpus()) {
      OPTSERVE_RETURN_IF_ERROR(CheckGpus(gpus));
      OPTSERVE_ASSIGN_OR_RETURN(const nccl::UniqueId id, MakeNcclId());
      Put(join, id);
    }
    OPTSERVE_RETURN_IF_ERROR(group_.SendToOthers(join));
    OPTSERVE_RETURN_IF_ERROR(rank_.Join(std::string_view(join).substr(1)));
    if (rank_.on_gpus()) {
      Log(LogFormat::kText).Info("ranks_joined", {{"by", fmt::format("{}, between processes", NcclName())}});
    }
    OPTSERVE_ASSIGN_OR_RETURN(const std::vector<int64_t> num_blocks, Reports(rank_.Load(progress)));
    const KvBudget kv{.num_blocks = static_cast<int32_t>(*std::ranges::min_element(num_blocks)),
                      .block_size = rank_.config().block_size};

    std::string pool{kPool};
    Put(pool, kv.num_blocks);
    OPTSERVE_RETURN_IF_ERROR(group_.SendToOthers(pool));
    OPTSERVE_RETURN_IF_ERROR(Reports(NumberOr(rank_.Allocate(kv.num_blocks))).status());
    OPTSERVE_RETURN_IF_ERROR(group_.SendToOthers({&kCapture, 1}));
    OPTSERVE_RETURN_IF_ERROR(Reports(NumberOr(rank_.CaptureGraphs())).status());
    asking_ = std::thread([this] { Ask(); });
    demand_.emplace(rank_.MakeDemand());
    return rank_.started(kv);
  }

  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    const std::lock_guard lock(group_mu_);
    if (is_launcher_ending_) return LastQuestion();
    OPTSERVE_RETURN_IF_ERROR(group_.SendToOthers(kPlan + EncodeStepPlan(plan)));
    OPTSERVE_ASSIGN_OR_RETURN(StepResult result, rank_.Execute(plan));
    result.demand = demand_->Demand(WorkOf(plan));
    return result;
  }

  std::string WhoIsBehind() const override {
    std::string awaited = group_.awaited();
    return awaited.empty() ? group_.Name(0) : awaited;
  }

  absl::Status Health() const override { return group_.status(); }

 private:
  // This rank's number and those that the others report, by rank; the first error, with its rank's name unless it is
  // this one.
  absl::StatusOr<std::vector<int64_t>> Reports(absl::StatusOr<int64_t> mine) {
    OPTSERVE_ASSIGN_OR_RETURN(const std::vector<std::string> reports, group_.ReceiveFromOthers(0));
    OPTSERVE_RETURN_IF_ERROR(mine.status());
    std::vector<int64_t> numbers{*mine};
    for (int rank = 1; rank < group_.size(); ++rank) {
      const absl::StatusOr<int64_t> theirs = ReadReport(reports[static_cast<size_t>(rank)]);
      if (!theirs.ok()) return Within(group_.Name(rank), theirs.status());
      numbers.push_back(*theirs);
    }
    return numbers;
  }

  // `gpus`: of their machines, by rank.
  absl::Status CheckGpus(const std::vector<int64_t>& gpus) const {
    if (rank_.config().deterministic_tp && group_.size() > 1) {
      return FailedPrecondition(
          "--deterministic-tp is set, but ranks that are processes on GPUs add up by NCCL, in an order of its own; "
          "leave it out");
    }
    const std::vector<int32_t>& hosts = group_.first_of_host();
    for (size_t rank = 0; rank < gpus.size(); ++rank) {
      for (size_t other = 0; other < rank; ++other) {
        if (gpus[rank] != gpus[other] || hosts[rank] != hosts[other]) continue;
        return FailedPrecondition(
            "{} and rank {} have the same GPU, and each needs one of its own; start no more ranks on a machine than it "
            "has GPUs",
            group_.Name(static_cast<int>(rank)), other);
      }
    }
    return absl::OkStatus();
  }

  // On a thread of its own: while no step runs, the others learn that this rank lives, and it that they do.
  void Ask() {
    std::unique_lock lock(mu_);
    while (group_.status().ok()) {
      if (changed_.wait_for(lock, kQuestionPeriod, [this] { return stopping_.load(); })) return;
      const std::unique_lock group_lock(group_mu_, std::try_to_lock);
      if (group_lock.owns_lock()) AskOnce(rank_.config().step_timeout_seconds);
    }
  }

  // An error is the group's status.
  void AskOnce(double limit_seconds) {
    if (group_.SendToOthers({&kQuestion, 1}).ok()) (void)group_.ReceiveFromOthers(limit_seconds);
  }

  // On a thread of its own: who has gone, when the launcher says that it ends the ranks, or has itself ended?
  void WaitForLauncher() {
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    int signal_number = 0;
    sigwait(&end, &signal_number);
    if (stopping_) return;
    is_launcher_ending_ = true;
    const steady_clock::time_point deadline = steady_clock::now() + 3 * kLastAnswerTime;
    std::this_thread::sleep_for(kLastAnswerTime);  // who lives has come to the end of this step by then
    while (true) {
      if (const std::unique_lock lock(group_mu_, std::try_to_lock); lock.owns_lock()) {
        (void)LastQuestion();
        return;
      }
      // Else rank 0 itself is at work, as far as it comes to it.
      if (!group_.awaited().empty() || steady_clock::now() > deadline) break;
      std::this_thread::sleep_for(kLastAnswerTime / 25);
    }
    group_.Abort(Unavailable("the launcher ends the ranks, which wait for {}", WhoIsBehind()));
  }

  // In place of a step. Returns why the group is at its end.
  absl::Status LastQuestion() {
    AskOnce(std::chrono::duration<double>(kLastAnswerTime).count());
    group_.Abort(Unavailable("the launcher ends the ranks, which are all there"));
    return group_.status();
  }

  MpiGroup& group_;
  MpiRank rank_;
  std::optional<CostModel> demand_;  // once started
  std::mutex group_mu_;              // a step, or a question and its answers
  std::mutex mu_;
  std::condition_variable changed_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> is_launcher_ending_ = false;
  std::thread asking_;  // from the end of Start on
  std::thread waiting_;
};

// What comes next from rank 0: the letter, and what belongs to it in `rest`.
absl::StatusOr<char> NextLetter(MpiGroup& group, double limit_seconds, std::string& message, std::string_view& rest) {
  OPTSERVE_ASSIGN_OR_RETURN(message, group.ReceiveFromFirst(limit_seconds));
  rest = message;
  return Take<char>(rest);
}

// Steps and questions, until the end.
absl::Status FollowSteps(MpiGroup& group, MpiRank& rank) {
  const double floor = rank.config().step_timeout_seconds;
  StepDeadline deadline(floor);
  std::string message;
  std::string_view rest;
  while (true) {
    // Rank 0 judges first, and says so: this is for a rank 0 that has gone.
    OPTSERVE_ASSIGN_OR_RETURN(const char letter, NextLetter(group, floor + deadline.seconds(), message, rest));
    if (letter == kEnd) return absl::OkStatus();
    if (letter == kQuestion) {
      OPTSERVE_RETURN_IF_ERROR(group.SendToFirst(""));
      continue;
    }
    if (letter != kPlan) return Internal("rank 0 sent '{}' between steps", letter);
    OPTSERVE_ASSIGN_OR_RETURN(const StepPlan plan, DecodeStepPlan(rest));
    group.set_silence_limit_seconds(floor + deadline.seconds());
    const steady_clock::time_point begin = steady_clock::now();
    OPTSERVE_RETURN_IF_ERROR(rank.Execute(plan).status());
    deadline.Observe(std::chrono::duration<double>(steady_clock::now() - begin).count());
  }
}

absl::Status SendReport(MpiGroup& group, const absl::StatusOr<int64_t>& number) {
  return group.SendToFirst(Report(number.status(), number.value_or(0)));
}

absl::Status Follow(MpiGroup& group) {
  std::string message;
  std::string_view rest;
  OPTSERVE_ASSIGN_OR_RETURN(const char first, NextLetter(group, 0, message, rest));
  if (first == kEnd) return absl::OkStatus();
  OPTSERVE_ASSIGN_OR_RETURN(const auto replica, Take<int32_t>(rest));
  OPTSERVE_ASSIGN_OR_RETURN(const auto generation, Take<int32_t>(rest));
  SetFaultScope(replica, generation);
  OPTSERVE_ASSIGN_OR_RETURN(EngineConfig config, ParseEngineConfig(rest));

  MpiRank rank(group, std::move(config));
  OPTSERVE_RETURN_IF_ERROR(SendReport(group, rank.Open()));
  OPTSERVE_ASSIGN_OR_RETURN(const char second, NextLetter(group, 0, message, rest));
  if (second == kEnd) return absl::OkStatus();
  OPTSERVE_RETURN_IF_ERROR(rank.Join(rest));
  OPTSERVE_RETURN_IF_ERROR(SendReport(group, rank.Load(nullptr)));
  OPTSERVE_ASSIGN_OR_RETURN(const char third, NextLetter(group, 0, message, rest));
  if (third == kEnd) return absl::OkStatus();
  OPTSERVE_ASSIGN_OR_RETURN(const auto num_blocks, Take<int32_t>(rest));
  OPTSERVE_RETURN_IF_ERROR(SendReport(group, NumberOr(rank.Allocate(num_blocks))));
  OPTSERVE_ASSIGN_OR_RETURN(const char fourth, NextLetter(group, 0, message, rest));
  if (fourth == kEnd) return absl::OkStatus();
  OPTSERVE_RETURN_IF_ERROR(SendReport(group, NumberOr(rank.CaptureGraphs())));
  return FollowSteps(group, rank);
}

}  // namespace

std::unique_ptr<Executor> MakeMpiExecutor(MpiGroup& group, const EngineConfig& config) {
  auto executor = std::make_unique<MpiExecutor>(group, config);
  if (config.steps_in_flight < 2) return executor;
  return std::make_unique<OverlappedExecutor>(std::move(executor));
}

absl::Status RunFollower(MpiGroup& group) {
  const absl::Status status = Follow(group);
  if (!status.ok()) group.Abort(Within(group.Name(group.rank()), status));
  return status;
}

}  // namespace optserve
