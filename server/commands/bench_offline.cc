#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "clients/bench/session.h"
#include "engine/engine_client.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/bench.h"
#include "server/commands/bench_report.h"
#include "server/commands/failure.h"
#include "server/commands/local_engine.h"
#include "server/commands/model_path.h"

namespace optserve {
namespace {

// One request's sink: tokens are noted on the engine's thread, the end wakes the caller.
class AnswerSink final : public TokenSink {
 public:
  explicit AnswerSink(const std::function<void(int)>& on_tokens) : on_tokens_(on_tokens) {}

  void OnEvents(std::vector<TokenEvent> events) override {
    int num_tokens = 0;
    bool finished = false;
    for (const TokenEvent& event : events) {
      num_tokens += event.token.has_value() ? 1 : 0;
      queue_ns_ += event.queue_ns;
      if (event.finish == FinishReason::kNone) continue;
      finished = true;
      error_ = event.error;
    }
    if (num_tokens > 0) on_tokens_(num_tokens);
    output_tokens_ += num_tokens;
    if (!finished) return;
    const std::lock_guard lock(mu_);
    finished_ = true;
    changed_.notify_one();
  }

  void Wait() {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [this]() { return finished_; });
  }

  // After Wait.
  const absl::Status& error() const { return error_; }
  int64_t output_tokens() const { return output_tokens_; }
  int64_t queue_ns() const { return queue_ns_; }

 private:
  const std::function<void(int)>& on_tokens_;
  absl::Status error_;
  int64_t output_tokens_ = 0;
  int64_t queue_ns_ = 0;
  std::mutex mu_;
  std::condition_variable changed_;
  bool finished_ = false;
};

class EngineTarget final : public bench::Target {
 public:
  explicit EngineTarget(EngineClient& engine) : engine_(engine) {}

  bench::Outcome Complete(const bench::LoadRequest& request, const std::function<void(int)>& on_tokens) override {
    const auto sink = std::make_shared<AnswerSink>(on_tokens);
    GenerateRequest generate{.id = ++next_id_, .prompt = request.prompt, .max_tokens = request.output_tokens};
    generate.sampling.temperature = 0.0f;
    absl::Status status = engine_.Submit(std::move(generate), sink);
    if (status.ok()) {
      sink->Wait();
      status = sink->error();
      queue_ns_ += sink->queue_ns();
    }
    bench::Outcome outcome{.prompt_tokens = std::ssize(request.prompt), .output_tokens = sink->output_tokens()};
    if (!status.ok()) outcome.error = absl::StatusCodeToString(status.code());
    if (!status.ok()) outcome.message = std::string(status.message());
    outcome.in_stream = !status.ok() && outcome.output_tokens > 0;
    return outcome;
  }

  // Of the engine, once it has ended all accounts.
  bench::EngineReading Read() const {
    EngineStats stats = engine_.Stats();
    for (; stats.step_account.steps != stats.steps; stats = engine_.Stats()) std::this_thread::yield();
    return {.step = ToAccount(stats.step_account),
            .request = ToAccount(stats.request_account),
            .queue_seconds = static_cast<double>(queue_ns_) * 1e-9,
            .steps = static_cast<double>(stats.steps),
            .engine_seconds = stats.request_seconds,
            .serving_seconds = stats.request_seconds};
  }

  std::vector<bench::EngineStep> Steps() const {
    std::vector<bench::EngineStep> steps;
    for (const StepRecord& record : engine_.RecentSteps(/*after=*/0)) {
      steps.push_back({.begin = static_cast<double>(record.begin_ns) * 1e-9,
                       .tokens = record.num_tokens,
                       .sequences = record.num_sequences,
                       .account = ToAccount({.times = record.times, .demand = record.demand})});
    }
    return steps;
  }

 private:
  static bench::EngineAccount ToAccount(const StepAccount& from) {
    bench::EngineAccount to{.weight_bytes = from.demand.weight_bytes,
                            .kv_bytes = from.demand.kv_bytes,
                            .weight_flops = from.demand.weight_flops,
                            .attention_flops = from.demand.attention_flops};
    for (size_t i = 0; i < kNumStepPhases; ++i) {
      to.phase_seconds.emplace_back(kStepPhaseNames[i], static_cast<double>(from.times.ns[i]) * 1e-9);
    }
    return to;
  }

  EngineClient& engine_;
  std::atomic<RequestId> next_id_ = 0;
  std::atomic<int64_t> queue_ns_ = 0;
};

absl::Status Run(const ServerConfig& config, BenchOptions& options) {
  OPTSERVE_RETURN_IF_ERROR(CheckOutputs(options.outputs));
  OPTSERVE_ASSIGN_OR_RETURN(const std::filesystem::path directory, ModelDirectoryOf(config));
  const std::string name = ModelName(config.model);
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<EngineClient> engine, StartEngineHere(config, directory));

  bench::WorkloadOptions& workload = options.session.workload;
  workload.vocab_size = std::min(workload.vocab_size, engine->model().vocab_size);
  workload.max_length = std::min(workload.max_length, engine->model().max_model_len);
  EngineTarget target(*engine);
  bench::Subject subject{
      .target = target,
      .read = [&target]() -> std::optional<bench::EngineReading> { return target.Read(); },
      .steps = [&target] { return target.Steps(); },
      .in_process = true,
      .progress = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); },
  };
  if (!options.no_roof) subject.roof = MeasureRoof(config.engine.num_threads);
  OPTSERVE_ASSIGN_OR_RETURN(bench::Report report, bench::RunSession(options.session, subject));
  return PublishReport(std::move(report), options, fmt::format("{}, in process", name));
}

}  // namespace

int BenchOffline(const ServerConfig& config, BenchOptions options) {
  const absl::Status status = Run(config, options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
