#include "server/commands/serve.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/util/log.h"
#include "engine/util/metrics.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/failure.h"
#include "server/commands/freed_memory.h"
#include "server/commands/load_display.h"
#include "server/commands/model_path.h"
#include "server/commands/run_summary.h"
#include "server/commands/runtime_files.h"
#include "server/commands/service_notifier.h"
#include "server/commands/signal_thread.h"
#include "server/commands/trace_collector.h"
#include "server/completion/completion_service.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/replicas/supervisor.h"
#include "server/text/tokenizer.h"
#include "server/tracing/request_trace.h"
#include "server/tracing/span_exporter.h"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kDrainPoll{20};
constexpr std::chrono::seconds kTimeToEnd{15};     // after the drain: engines end, memory is given back
constexpr milliseconds kLastAnswersTimeout{2000};  // for telling clients that the engine has died
constexpr milliseconds kLoadingPeriod{1000};       // of telling the supervisor how far the model has loaded
constexpr milliseconds kHangs{5000};               // an I/O thread that has been silent for so long

// What the main thread waits for.
struct Happening {
  enum Kind { kSignal, kReload, kEngineStarted, kEngineGivenUp };
  Kind kind = kSignal;
  absl::Status status;  // of the engine: OK, or what went wrong
};

class Happenings {
 public:
  void Post(Happening::Kind kind, absl::Status status = absl::OkStatus()) {
    const std::lock_guard lock(mu_);
    queue_.push({kind, std::move(status)});
    posted_.notify_one();
  }

  // Nothing if nothing has happened by then.
  std::optional<Happening> WaitUntil(steady_clock::time_point time) {
    std::unique_lock lock(mu_);
    posted_.wait_until(lock, time, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !queue_.empty(); });
    if (queue_.empty()) return std::nullopt;
    return Pop();
  }

  std::optional<Happening> TryWait() {
    const std::lock_guard lock(mu_);
    if (queue_.empty()) return std::nullopt;
    return Pop();
  }

 private:
  Happening Pop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Happening happening = std::move(queue_.front());
    queue_.pop();
    return happening;
  }

  std::mutex mu_;
  std::condition_variable posted_;
  std::queue<Happening> queue_ ABSL_GUARDED_BY(mu_);
};

double SecondsSince(steady_clock::time_point begin) {
  return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

int64_t ModelTime(const std::filesystem::path& directory) {
  struct stat info = {};
  return stat((directory / "config.json").c_str(), &info) == 0 ? info.st_mtime : 0;
}

// One run of the server. Members are in order of dependence: what is last ends first.
class Server {
 public:
  Server(const ServerConfig& config, RuntimeFiles::Reread reread)
      : config_(config),
        reread_(std::move(reread)),
        name_(config.served_model_name.empty() ? ModelName(config.model) : config.served_model_name),
        log_(config.log_format),
        metrics_(OPTSERVE_VERSION),
        display_(name_),
        signals_([this](int signal) { happenings_.Post(signal == SIGHUP ? Happening::kReload : Happening::kSignal); }) {
  }

  int Run() {
    const absl::Status started = Start();
    display_.Finish();
    if (!started.ok()) return Fail(started);
    if (!loaded_) return kExitOk;  // a signal while the model was loading
    while (true) {
      const std::optional<Happening> happening = happenings_.WaitUntil(Tend());
      if (!happening.has_value()) continue;
      if (happening->kind == Happening::kSignal) return Drain();
      if (happening->kind == Happening::kReload) {
        notifier_.Reloading();
        Reload();
        notifier_.Ready(name_);
      }
      if (happening->kind == Happening::kEngineGivenUp) return EngineGivenUp(happening->status);
    }
  }

 private:
  // Everything up to the ready line. The ports first, so that a taken one is known before anything is loaded; then the
  // engine loads in its process while the rest starts in this one.
  absl::Status Start() {
    OPTSERVE_ASSIGN_OR_RETURN(
        const std::filesystem::path directory,
        ResolveModel(config_.model, HuggingFaceCache(ProcessEnvironment()), !config_.engine.model_config_path.empty()));
    OPTSERVE_ASSIGN_OR_RETURN(const std::filesystem::path tokenizer_directory,
                              ResolveTokenizer(config_.tokenizer, directory));
    OPTSERVE_ASSIGN_OR_RETURN(files_, RuntimeFiles::Open(config_, reread_, log_, metrics_));
    OPTSERVE_RETURN_IF_ERROR(StartTracing());
    OPTSERVE_RETURN_IF_ERROR(StartHttp());
    StartEngine(directory);
    OPTSERVE_RETURN_IF_ERROR(StartGrpc());
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(tokenizer_directory);
    const bool has_tokenizer = !absl::IsNotFound(tokenizer.status());
    if (has_tokenizer && !tokenizer.ok()) return tokenizer.status();
    OPTSERVE_RETURN_IF_ERROR(WaitForModel());
    if (!loaded_) return absl::OkStatus();

    service_.emplace(*engine_, has_tokenizer ? std::optional(*std::move(tokenizer)) : std::nullopt,
                     CompletionService::Options{.served_model_name = name_,
                                                .model_created = ModelTime(directory),
                                                .metrics = &metrics_,
                                                .quotas = &files_->quotas(),
                                                .ledger = files_->ledger()});
    http_->Serve(*service_);
    if (grpc_ != nullptr) grpc_->Serve(*service_);
    display_.Finish();
    std::printf("optserve ready http=%s grpc=%s model=%s\n", http_->url().c_str(),
                grpc_ != nullptr ? grpc_->address().c_str() : "off", name_.c_str());
    std::fflush(stdout);
    notifier_.Ready(name_);
    const ModelInfo& model = engine_->model();
    log_.Info("ready", {{"seconds", SecondsSince(begin_)},
                        {"model", name_},
                        {"parameters", model.num_parameters},
                        {"weight_bytes", model.weight_bytes},
                        {"kv_tokens", model.kv_tokens},
                        {"max_model_len", model.max_model_len},
                        {"tokenizer", has_tokenizer},
                        {"engine_pid", fmt::format("{}", fmt::join(engine_->pids(), ","))}});
    return absl::OkStatus();
  }

  absl::Status StartTracing() {
    if (config_.otlp_traces_endpoint.empty()) return absl::OkStatus();
    OPTSERVE_ASSIGN_OR_RETURN(SpanExporter::Send send, SendToCollector(config_.otlp_traces_endpoint));
    SpanExporter::Options options = {.version = OPTSERVE_VERSION, .log = &log_, .metrics = &metrics_};
    std::array<char, 256> host = {};
    if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
    options.resource = {{"service.name", "optserve"},
                        {"service.version", OPTSERVE_VERSION},
                        {"service.instance.id", fmt::format("{}:{}", host.data(), getpid())},
                        {"host.name", host.data()},
                        {"process.pid", int64_t{getpid()}}};
    exporter_.emplace(std::move(options), std::move(send));
    tracer_.emplace(config_.trace_sampling, [this](std::vector<Span> spans) { exporter_->Export(std::move(spans)); });
    return absl::OkStatus();
  }

  const Tracer* tracer() const { return tracer_ ? &*tracer_ : nullptr; }

  absl::Status StartHttp() {
    HttpServer::Options options = {.host = config_.host, .port = config_.port};
    options.limits = config_.http_limits;
    options.decode = {.limits = config_.request_limits, .ignore_unknown_fields = config_.ignore_unknown_fields};
    options.engine_limits = {{"max_queue", config_.engine.max_queue},
                             {"max_queue_tokens", config_.engine.max_queue_tokens}};
    options.ready = [this] { return EngineHealth(); };
    options.metrics = [this] {
      const Supervisor* engine = running_engine_;
      const EngineStats stats = engine == nullptr ? EngineStats() : engine->Stats();
      std::string text = metrics_.Render(stats, engine != nullptr && engine->Health().ok());
      if (config_.vllm_metrics) text += metrics_.RenderAsVllm(stats, name_);
      return text;
    };
    if (AccessControl* access = files_->access()) {
      options.authorize = [access](std::string_view authorization, std::string_view address) {
        return access->Authorize(authorization, address);
      };
    }
    options.probes_need_key = config_.probes_need_key;
    options.metrics_need_key = config_.metrics_need_key;
    options.tracer = tracer();
    if (const TlsCertificate* tls = files_->tls()) options.tls = [tls] { return tls->context(); };
    options.log = &log_;
    OPTSERVE_ASSIGN_OR_RETURN(http_, HttpServer::Start(std::move(options)));
    return absl::OkStatus();
  }

  absl::Status StartGrpc() {
    if (config_.no_grpc) return absl::OkStatus();
    GrpcServer::Options options = {.host = config_.grpc_host, .port = config_.grpc_port};
    options.served_model_name = name_;
    options.limits = config_.request_limits;
    options.ignore_unknown_fields = config_.ignore_unknown_fields;
    options.max_request_bytes = static_cast<int>(std::min<size_t>(config_.http_limits.body_bytes, INT32_MAX));
    options.stall_time = config_.http_limits.stall_time;
    options.tracer = tracer();
    options.ready = [this] { return EngineHealth(); };
    if (AccessControl* access = files_->access()) {
      options.authorize = [access](std::string_view authorization, std::string_view address) {
        return access->Authorize(authorization, address);
      };
    }
    if (files_->tls() != nullptr) options.tls_bundle_file = files_->tls()->bundle_file();
    options.log = &log_;
    OPTSERVE_ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(std::move(options)));
    return absl::OkStatus();
  }

  void StartEngine(const std::filesystem::path& directory) {
    Supervisor::Options options = {.config = config_.engine,
                                   .num_replicas = config_.replicas,
                                   .max_deaths = config_.max_engine_deaths,
                                   .load_timeout_seconds = config_.load_timeout_seconds};
    options.config.model_path = directory.string();
    if (config_.replicas > 1 && options.config.num_threads == 0) {
      const auto threads = static_cast<int32_t>(std::thread::hardware_concurrency());
      options.config.num_threads = std::max(1, threads / config_.replicas);
    }
    if (!config_.engine_launcher.empty()) {
      options.arguments = {"engine-group"};
      std::istringstream words(config_.engine_launcher);
      for (std::string word; words >> word;) options.arguments.push_back(word);
      options.engine_is_group = true;
    }
    options.progress = [this](int64_t done, int64_t total) {
      display_.Update(done, total);
      if (total > 0) loaded_percent_ = static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
    };
    options.on_started = [this](const absl::Status& status) { happenings_.Post(Happening::kEngineStarted, status); };
    options.on_given_up = [this](const absl::Status& why) { happenings_.Post(Happening::kEngineGivenUp, why); };
    options.metrics = &metrics_;
    options.log = &log_;
    engine_ = std::make_unique<Supervisor>(std::move(options));
    running_engine_ = engine_.get();
  }

  // Until the engine has loaded the model and answered once. Sets loaded_, unless a signal came first.
  absl::Status WaitForModel() {
    while (true) {
      notifier_.Loading(name_, loaded_percent_);
      const std::optional<Happening> happening = happenings_.WaitUntil(steady_clock::now() + kLoadingPeriod);
      if (!happening.has_value()) continue;
      if (happening->kind == Happening::kReload) {
        Reload();
        continue;
      }
      OPTSERVE_RETURN_IF_ERROR(happening->status);
      loaded_ = happening->kind == Happening::kEngineStarted;
      return absl::OkStatus();
    }
  }

  // What is due while nothing happens. Returns when something will be due again.
  steady_clock::time_point Tend() {
    const steady_clock::time_point now = steady_clock::now();
    summary_.Update(engine_->Stats(), now);
    freed_memory_.GiveBack(now);
    const steady_clock::time_point next = std::min(summary_.next(), freed_memory_.next());
    if (!notifier_.is_watched()) return next;
    // A front end that hangs is one that the supervisor may kill; engines have a watchdog of their own.
    if (now >= next_alive_ && http_->Silence() < kHangs) {
      notifier_.Alive();
      next_alive_ = now + notifier_.alive_period();
    }
    return std::min(next, std::max(next_alive_, now + kDrainPoll));
  }

  void Reload() {
    files_->Reload();
    const ServerConfig& config = files_->config();
    http_->SetLimits(config.http_limits, config.request_limits);
    if (grpc_ != nullptr) grpc_->SetLimits(config.request_limits, config.http_limits.stall_time);
  }

  absl::Status EngineHealth() const {
    const Supervisor* engine = running_engine_;
    return engine == nullptr ? absl::OkStatus() : engine->Health();
  }

  // New requests are refused, running ones finish.
  int Drain() {
    const std::chrono::seconds timeout(files_->config().shutdown_timeout_seconds);
    log_.Info("draining", {{"timeout_seconds", timeout.count()}});
    metrics_.SetDraining();
    notifier_.Stopping(timeout + kTimeToEnd);
    http_->Drain();
    if (grpc_ != nullptr) grpc_->Drain();
    const auto deadline = steady_clock::now() + timeout;
    while (!http_->WaitUntilIdle(kDrainPoll) || (grpc_ != nullptr && !grpc_->WaitUntilIdle(kDrainPoll))) {
      Tend();
      const std::optional<Happening> happening = happenings_.TryWait();
      if (happening.has_value() && happening->kind == Happening::kReload) Reload();
      if (happening.has_value() && happening->kind == Happening::kSignal) {
        log_.Warning("stopped_at_once");
        return kExitRuntimeError;
      }
      if (happening.has_value() && happening->kind == Happening::kEngineGivenUp)
        return EngineGivenUp(happening->status);
      if (steady_clock::now() < deadline) continue;
      log_.Warning("shutdown_timeout", {{"seconds", timeout.count()}});
      break;
    }
    log_.Info("stopped");
    return kExitOk;
  }

  // Its clients have had an error event or get one now; then this process ends, for whoever supervises it to start
  // another.
  int EngineGivenUp(const absl::Status& why) {
    log_.Error("stopped_without_engine", {{"why", std::string(why.message())}});
    http_->WaitUntilIdle(kLastAnswersTimeout);
    if (grpc_ != nullptr) grpc_->WaitUntilIdle(kLastAnswersTimeout);
    return kExitRuntimeError;
  }

  const steady_clock::time_point begin_ = steady_clock::now();
  const ServerConfig& config_;
  const RuntimeFiles::Reread reread_;
  const std::string name_;
  Log log_;
  Metrics metrics_;
  LoadDisplay display_;
  ServiceNotifier notifier_ = ServiceNotifier::TakeFromEnvironment();
  RunSummary summary_{log_, begin_};
  FreedMemory freed_memory_{begin_};
  steady_clock::time_point next_alive_ = begin_;
  std::atomic<int> loaded_percent_ = 0;
  Happenings happenings_;
  SignalThread signals_;  // before any other thread
  bool loaded_ = false;
  std::optional<SpanExporter> exporter_;
  std::optional<Tracer> tracer_;
  std::unique_ptr<RuntimeFiles> files_;
  std::unique_ptr<Supervisor> engine_;
  std::atomic<const Supervisor*> running_engine_ = nullptr;  // for the I/O threads, which are there before it
  std::optional<CompletionService> service_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
};

// As many descriptors as this process may have: each connection is one, and shells give out 1024.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // without it fewer connections are served
}

}  // namespace

int Serve(const ServerConfig& config, std::function<absl::StatusOr<ServerConfig>()> reread) {
  RaiseDescriptorLimit();
  signal(SIGPIPE, SIG_IGN);  // a reader of our output that goes away is no reason to end
  signal(SIGXFSZ, SIG_IGN);  // nor is a log that may not grow any more
  return Server(config, std::move(reread)).Run();
}

}  // namespace optserve
