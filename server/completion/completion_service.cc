#include "server/completion/completion_service.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string_view>
#include <utility>
#include <variant>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/access/key_quotas.h"
#include "server/api/error_codec.h"
#include "server/completion/call.h"
#include "server/completion/prompts.h"
#include "server/completion/work_queue.h"

namespace optserve {
namespace {

uint64_t Random64() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

size_t TextBytes(const CompletionRequest& request) {
  size_t num_bytes = 0;
  for (const Prompt& prompt : request.prompts) {
    if (const auto* text = std::get_if<std::string>(&prompt)) num_bytes += text->size();
  }
  return num_bytes;
}

// A name for what answers are a function of, besides the request.
std::string Fingerprint(std::string_view model_name, const ModelInfo& model) {
  uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  for (const char byte : fmt::format("{}\n{}\n{} {} {}", OPTSERVE_VERSION, model_name, model.vocab_size,
                                     model.num_parameters, model.weight_bytes)) {
    hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3;
  }
  return fmt::format("fp_{:012x}", hash >> 16);
}

class Call : public CompletionCall {
 public:
  Call(std::shared_ptr<CallState> state, std::string id, int64_t created, std::string system_fingerprint)
      : state_(std::move(state)),
        id_(std::move(id)),
        created_(created),
        system_fingerprint_(std::move(system_fingerprint)) {}
  ~Call() override { state_->Cancel(); }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  CompletionBatch Take() override { return state_->Take(); }
  void Cancel() override { state_->Cancel(); }
  void NoteAnswered() override { state_->NoteAnswered(); }
  const std::string& id() const override { return id_; }
  int64_t created() const override { return created_; }
  const std::string& system_fingerprint() const override { return system_fingerprint_; }

 private:
  const std::shared_ptr<CallState> state_;
  const std::string id_;
  const int64_t created_;
  const std::string system_fingerprint_;
};

}  // namespace

class CompletionService::Impl {
 public:
  Impl(EngineClient& engine, std::optional<Tokenizer> tokenizer, Options options)
      : engine_(engine),
        tokenizer_(std::move(tokenizer)),
        options_(std::move(options)),
        system_fingerprint_(Fingerprint(options_.served_model_name, engine.model())),
        queue_(options_.tokenizer_threads, options_.max_waiting_texts) {}

  std::shared_ptr<CompletionCall> Start(CompletionRequest request, std::function<void()> on_ready,
                                        std::shared_ptr<RequestTrace> trace, int64_t received_ns);

  // A request of that key for that model begins: its part of the key's limits, none where there are none.
  absl::StatusOr<std::unique_ptr<QuotaLease>> Admit(std::string_view api_key_id, std::string_view model) const;

  const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
  const EngineClient& engine() const { return engine_; }
  const Options& options() const { return options_; }

 private:
  // Everything up to Submit; as long as the text is.
  void Begin(CallState& call) const;

  EngineClient& engine_;
  const std::optional<Tokenizer> tokenizer_;
  const Options options_;
  const std::string system_fingerprint_;
  std::atomic<RequestId> next_request_ = 1;
  WorkQueue queue_;  // last: its threads use all of the above
};

absl::StatusOr<std::unique_ptr<QuotaLease>> CompletionService::Impl::Admit(std::string_view api_key_id,
                                                                           std::string_view model) const {
  OPTSERVE_RETURN_IF_ERROR(CheckModelName(model, options_.served_model_name));
  if (options_.quotas == nullptr) return nullptr;
  return options_.quotas->Admit(api_key_id);
}

std::shared_ptr<CompletionCall> CompletionService::Impl::Start(CompletionRequest request,
                                                               std::function<void()> on_ready,
                                                               std::shared_ptr<RequestTrace> trace,
                                                               int64_t received_ns) {
  absl::StatusOr<std::unique_ptr<QuotaLease>> lease = Admit(request.api_key_id, request.model);
  const absl::Status refusal = lease.status();
  std::string id = fmt::format("cmpl-{:016x}{:016x}", Random64(), Random64());
  const size_t text_bytes = TextBytes(request);
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  const auto state =
      std::make_shared<CallState>(CallState::Setup{.engine = &engine_,
                                                   .tokenizer = tokenizer(),
                                                   .metrics = options_.metrics,
                                                   .ledger = options_.ledger,
                                                   .lease = refusal.ok() ? *std::move(lease) : nullptr,
                                                   .id = id,
                                                   .model_name = options_.served_model_name,
                                                   .first_request = next_request_.fetch_add(request.prompts.size()),
                                                   .received_ns = received_ns == 0 ? now_ns : received_ns,
                                                   .start_ns = now_ns,
                                                   .on_ready = std::move(on_ready),
                                                   .trace = std::move(trace)},
                                  std::move(request));
  auto call = std::make_shared<Call>(
      state, std::move(id),
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count(),
      system_fingerprint_);
  if (!refusal.ok()) {
    state->Fail(refusal);
  } else if (text_bytes <= static_cast<size_t>(options_.inline_text_bytes)) {
    Begin(*state);
  } else if (!queue_.Push([this, state] { Begin(*state); }, [state] { state->Fail(ShuttingDown()); })) {
    state->Fail(WithRetryAfter(ResourceExhausted("{} long texts wait to be tokenized", options_.max_waiting_texts), 1));
  }
  return call;
}

void CompletionService::Impl::Begin(CallState& call) const {
  if (call.has_ended()) return;
  absl::StatusOr<std::vector<PreparedPrompt>> prompts = PreparePrompts(call.request(), tokenizer(), engine_.model());
  if (!prompts.ok()) return call.Fail(prompts.status());
  std::vector<uint64_t> seeds(prompts->size());
  for (uint64_t& seed : seeds) {
    seed = call.request().seed ? static_cast<uint64_t>(*call.request().seed) : Random64();
  }
  call.Begin(*std::move(prompts), seeds);
}

CompletionService::CompletionService(EngineClient& engine, std::optional<Tokenizer> tokenizer, Options options)
    : impl_(std::make_unique<Impl>(engine, std::move(tokenizer), std::move(options))) {}

CompletionService::~CompletionService() = default;

std::shared_ptr<CompletionCall> CompletionService::Start(CompletionRequest request, std::function<void()> on_ready,
                                                         std::shared_ptr<RequestTrace> trace, int64_t received_ns) {
  return impl_->Start(std::move(request), std::move(on_ready), std::move(trace), received_ns);
}

absl::StatusOr<std::vector<int32_t>> CompletionService::Tokenize(std::string_view api_key_id, std::string_view model,
                                                                 std::string_view text,
                                                                 const EncodeOptions& encode) const {
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<QuotaLease> lease, impl_->Admit(api_key_id, model));
  if (tokenizer() == nullptr) return TokenizerMissing("prompt");
  return tokenizer()->Encode(text, encode);
}

absl::StatusOr<std::string> CompletionService::Detokenize(std::string_view api_key_id, std::string_view model,
                                                          std::span<const int32_t> tokens) const {
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<QuotaLease> lease, impl_->Admit(api_key_id, model));
  if (tokenizer() == nullptr) return TokenizerMissing("tokens");
  const int32_t vocab_size = engine().model().vocab_size;
  const auto bad = std::ranges::find_if(tokens, [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad != tokens.end()) {
    const std::string param = fmt::format("tokens[{}]", bad - tokens.begin());
    return WithParam(InvalidArgument("{} is {}, but the model's token ids are 0 to {}", param, *bad, vocab_size - 1),
                     param);
  }
  return tokenizer()->Decode(tokens, /*skip_special=*/false);
}

const Tokenizer* CompletionService::tokenizer() const { return impl_->tokenizer(); }
const EngineClient& CompletionService::engine() const { return impl_->engine(); }
const CompletionService::Options& CompletionService::options() const { return impl_->options(); }

}  // namespace optserve
