// Measures whole steps of OPT models on GPU 0 by way of the engine's own worker: a JSON object a line.
//
//   gpu_model_bench [--sizes 125m,13b] [--batches 1,8] [--prompts 512] [--ranks 16] [--seconds 1] [--smoke]
//
// Weights are random and made on the device. A decoding step is a plan with a token a sequence, its result read back
// and the token fed to the next step; it is a captured graph, as in service. Contexts grow from 128 to 256 tokens and
// begin again. A prompt is one step.
// Sampling is greedy. The figure is the median of the steps of `seconds`, after a warm-up; its ratio is of the roofs
// measured in the same process: what a step must read of read bandwidth for decoding, what it must multiply of GEMM
// peak for prompts.
//
// With --ranks N it is rank 0 of N, alone: its shard of the weights, and in place of the wire what a rank does by
// itself in a collective: adding bias and residual, the norm, and placing its own part. All that 16 GPUs add is the
// wire.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/executor/rank_worker.h"
#include "engine/executor/step_inputs.h"
#include "engine/model/opt_sizes.h"
#include "engine/planner/cost_model.h"
#include "engine/scheduler/step_plan.h"
#include "engine/util/status_macros.h"
#include "kernels/common/cuda_device.h"
#include "tests/gpu/measure.h"
#include "tests/gpu/probe.h"

namespace optserve {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kFirstContext = 128, kLastContext = 256;
constexpr int kWarmUps = 3;

// A rank of a group whose other ranks have no say.
class NoWire final : public Communicator {
 public:
  NoWire(Backend& backend, int size) : backend_(backend), size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  bool sums_as_tree() const override { return true; }
  void AllReduceSum(const TensorView&) override {}
  void AllGather(const TensorView& shard, const TensorView& all) override {
    const int64_t count = shard.num_elements();
    backend_.CopyRows(
        {.dst = MakeView(all.data, DType::kF32, 1, count), .src = MakeView(shard.data, DType::kF32, 1, count)});
  }
  absl::Status Check() override { return absl::OkStatus(); }
  void Abort(const absl::Status&) override {}
  uint64_t num_arrivals() const override { return 0; }
  std::string WhyNoCapture() const override { return ""; }

 private:
  Backend& backend_;
  const int size_;
};

struct Case {
  std::string name;  // "6.7b", "175b of 16"
  OptConfig config;
  int ranks = 1;
};

class ModelBench {
 public:
  ModelBench(Case model, double seconds, bool smoke) : case_(std::move(model)), seconds_(seconds), smoke_(smoke) {
    std::unique_ptr<Backend> backend = OpenGpu();
    device_ = backend.get();
    roofs_ = MeasureRoofs(*device_, smoke);
    std::unique_ptr<Communicator> comm = case_.ranks == 1 ? std::move(MakeThreadCommunicators(1).front())
                                                          : std::make_unique<NoWire>(*device_, case_.ranks);
    worker_ = std::make_unique<RankWorker>(case_.config, std::move(backend), std::move(comm));
  }

  void Run(std::vector<int32_t> batches, const std::vector<int32_t>& prompts) {
    if (const absl::Status status = Prepare(batches, prompts); !status.ok()) {
      for (const int32_t batch : batches) PrintMissing(DecodeName(batch), std::string(status.message()));
      for (const int32_t tokens : prompts) PrintMissing(PromptName(tokens), std::string(status.message()));
      return;
    }
    for (const int32_t batch : batches) {
      if (batch * (kLastContext / kBlockSize) > num_blocks_) {
        PrintMissing(DecodeName(batch), "no memory is left for the keys and values of so many sequences");
        continue;
      }
      Report(DecodeName(batch), Decode(batch), batch, DecodeWork(batch, (kFirstContext + kLastContext) / 2), true);
    }
    for (const int32_t tokens : prompts) {
      Report(PromptName(tokens), Prompt(tokens), tokens, PrefillWork(tokens), false);
    }
  }

 private:
  std::string DecodeName(int32_t batch) const { return case_.name + " decode, batch " + std::to_string(batch); }
  std::string PromptName(int32_t tokens) const {
    return case_.name + " prefill, " + std::to_string(tokens) + " tokens";
  }

  // Makes the weights, and room for the most sequences that fit, up to the largest batch.
  absl::Status Prepare(const std::vector<int32_t>& batches, const std::vector<int32_t>& prompts) {
    OPTSERVE_RETURN_IF_ERROR(worker_->MakeWeights([this](const TensorView& shape) { return Make(shape); }));
    const int32_t longest = prompts.empty() ? 1 : *std::max_element(prompts.begin(), prompts.end());
    const int32_t largest = batches.empty() ? 1 : *std::max_element(batches.begin(), batches.end());
    // Contexts as a server allows them: the shape of a captured step.
    const StepLimits limits{.max_tokens = std::max(longest, largest),
                            .max_sequences = largest,
                            .max_context = smoke_ ? kLastContext : case_.config.max_positions,
                            .block_size = kBlockSize};
    const KvCache::Shape shape{.num_layers = case_.config.num_layers,
                               .num_heads = case_.config.num_heads / case_.ranks,
                               .head_size = case_.config.head_size(),
                               .dtype = device_->info().activation_dtype};
    constexpr int64_t kReserve = int64_t{256} << 20;
    const int64_t activations =
        OptModel::ActivationBytes(case_.config, case_.ranks, false, limits.max_tokens, shape.dtype) +
        RankWorker::StepBytes(limits, case_.ranks);
    const int64_t room =
        (device_->FreeBytes() - activations - (smoke_ ? 0 : kReserve)) / (KvCache::BytesPerToken(shape) * kBlockSize);
    const int64_t wanted = std::max<int64_t>(int64_t{largest} * kLastContext, longest) / kBlockSize + 1;
    num_blocks_ = static_cast<int32_t>(std::min(room, wanted));
    if (num_blocks_ * kBlockSize < std::max(longest, kLastContext)) {
      return absl::ResourceExhaustedError("no memory is left for the keys and values of one sequence");
    }
    OPTSERVE_RETURN_IF_ERROR(worker_->Allocate({.num_blocks = num_blocks_, .block_size = kBlockSize}, limits));
    return worker_->CaptureGraphs(std::vector<int64_t>(batches.begin(), batches.end()));
  }

  absl::StatusOr<TensorView> Make(const TensorView& shape) {
    TensorView view = shape;
    auto memory = device_->Allocate(shape.num_bytes());
    if (!memory.ok()) return memory.status();
    view.data = (*memory)->data();
    memory_.push_back(*std::move(memory));
    if (shape.dtype == DType::kF16) {
      probe::FillRandom(device_->cuda_device()->stream(), view.as<F16>(), shape.num_elements(),
                        static_cast<uint32_t>(memory_.size()));
    } else {  // biases and what norms multiply with
      device_->CopyIn(view, std::vector<float>(static_cast<size_t>(shape.num_elements()), 0.5f).data());
    }
    return view;
  }

  SequenceSlice MakeSlice(int32_t sequence, int32_t num_tokens, int32_t num_cached, int32_t first_block) const {
    SequenceSlice slice{
        .sequence = static_cast<SequenceId>(sequence), .num_tokens = num_tokens, .num_cached = num_cached};
    slice.wants_sample = true;
    slice.sampling.temperature = 0.0;
    const int32_t num_blocks = (num_cached + num_tokens + kBlockSize - 1) / kBlockSize;
    for (int32_t i = 0; i < num_blocks; ++i) slice.block_table.push_back(first_block + i);
    return slice;
  }

  // Runs the plan. Seconds; `sampled` gets what was drawn.
  double Step(const StepPlan& plan, std::vector<int32_t>* sampled) {
    const auto begin = std::chrono::steady_clock::now();
    const absl::StatusOr<StepResult> result = worker_->Execute(plan);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ExitOnError(result.status());
    for (size_t i = 0; i < result->sampled.size(); ++i) {
      if (!result->sampled[i].finite) ExitOnError(absl::InternalError(case_.name + ": a step gave NaN or infinity"));
      if (sampled != nullptr) (*sampled)[i] = result->sampled[i].token.id;
    }
    return seconds;
  }

  // The median of one(), after a warm-up.
  template <typename One>
  double Median(const One& one) {
    for (int i = 0; i < (smoke_ ? 1 : kWarmUps); ++i) one();
    std::vector<double> times;
    double total = 0;
    while (times.size() < (smoke_ ? 1 : 5) || (!smoke_ && total < seconds_)) {
      times.push_back(one());
      total += times.back();
    }
    std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
  }

  double Decode(int32_t batch) {
    std::vector<int32_t> tokens(static_cast<size_t>(batch), 100);
    int32_t context = kFirstContext;
    return Median([&] {
      StepPlan plan{.step = ++step_, .num_decode = batch, .token_ids = tokens};
      for (int32_t i = 0; i < batch; ++i) {
        plan.slices.push_back(MakeSlice(i, 1, context, i * (kLastContext / kBlockSize)));
      }
      if (++context == kLastContext) context = kFirstContext;
      return Step(plan, &tokens);
    });
  }

  double Prompt(int32_t num_tokens) {
    StepPlan plan{.slices = {MakeSlice(0, num_tokens, 0, 0)}};
    for (int32_t i = 0; i < num_tokens; ++i) plan.token_ids.push_back(10 + i % (case_.config.vocab_size - 10));
    return Median([&] {
      plan.step = ++step_;
      return Step(plan, nullptr);
    });
  }

  void Report(const std::string& name, double seconds, int32_t tokens, const StepWork& work, bool is_decode) {
    const CostModel model({.model = case_.config, .tensor_parallel_size = case_.ranks});
    const StepDemand demand = model.Demand(work);
    const double ranks = case_.ranks;
    const double bytes = (demand.weight_bytes + demand.kv_bytes) / ranks;
    const double flops = (demand.weight_flops + demand.attention_flops) / ranks;
    Print({.name = name,
           .seconds = seconds,
           .achieved = tokens / seconds,
           .unit = "tokens/s",
           .ratio = is_decode ? bytes / seconds / roofs_.read_bytes_per_second : flops / seconds / roofs_.flops,
           .of = is_decode ? "read bandwidth" : "GEMM peak"});
  }

  const Case case_;
  const double seconds_;
  const bool smoke_;
  Backend* device_ = nullptr;  // the worker's
  Roofs roofs_;
  std::unique_ptr<RankWorker> worker_;
  std::vector<std::unique_ptr<Buffer>> memory_;  // of the weights; ends before the backend
  int32_t num_blocks_ = 0;
  uint64_t step_ = 0;
};

std::vector<int32_t> Numbers(const std::string& list) {
  std::vector<int32_t> numbers;
  for (const std::string& item : SplitList(list)) {
    numbers.push_back(std::atoi(item.c_str()));
    if (numbers.back() < 1) ExitOnError(absl::InvalidArgumentError(item + " is not a number of sequences or tokens"));
  }
  return numbers;
}

int Main(int argc, char** argv) {
  const Options options(argc, argv, {"sizes", "batches", "prompts", "ranks", "seconds", "smoke!"});
  const bool smoke = options.Has("smoke");
  const int ranks = std::atoi(options.Get("ranks", "1").c_str());
  for (const std::string& size : SplitList(options.Get("sizes", smoke ? "smoke" : "125m,1.3b,6.7b"))) {
    OptConfig config{
        .num_layers = 2, .hidden_size = 256, .num_heads = 16, .ffn_size = 512, .vocab_size = 512, .embed_size = 256};
    if (!smoke) {
      const absl::StatusOr<OptConfig> found = FindOptSize(size);
      ExitOnError(found.status());
      config = *found;
    }
    ExitOnError(CheckTensorParallelSize(config, ranks));
    ModelBench({.name = ranks == 1 ? size : size + " of " + std::to_string(ranks), .config = config, .ranks = ranks},
               std::atof(options.Get("seconds", "1").c_str()), smoke)
        .Run(Numbers(options.Get("batches", smoke ? "1,2" : "1,8,32,128")),
             Numbers(options.Get("prompts", smoke ? "20" : "512,2048")));
  }
  return 0;
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) { return optserve::Main(argc, argv); }
