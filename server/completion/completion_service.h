#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "server/api/completion.h"
#include "server/text/tokenizer.h"

namespace optserve {

class KeyQuotas;
class Metrics;
class RequestTrace;
class UsageLedger;

// What a call has produced since it was last asked.
struct CompletionBatch {
  std::vector<CompletionEvent> events;
  absl::Status error;  // not OK: the call failed and has ended; before any event it is the whole answer
  bool done = false;   // all choices have finished, or `error`: nothing more will come
};

// One completion request on its way, for one transport (an HTTP connection, a gRPC reactor).
//
// Threads  the engine's events come in on one thread, Take and Cancel are called by the transport; both may overlap.
//          Text is made in Take, on the transport's thread.
class CompletionCall {
 public:
  virtual ~CompletionCall() = default;

  // Everything new, at once; empty batches are possible. After `done` it is not called again.
  virtual CompletionBatch Take() = 0;

  // The client has gone, or the transport cannot write: ends all choices; their blocks are free before the next step.
  // Take then answers Cancelled. Idempotent; a call that is destroyed is cancelled too.
  virtual void Cancel() = 0;

  // The transport has all of the answer in its own hands, and sending is what is left: what the server itself took for
  // the request ends here. Once, after Take's last batch.
  virtual void NoteAnswered() = 0;

  // "cmpl-..." and when it was made, as seconds since 1970: for every object of the answer.
  virtual const std::string& id() const = 0;
  virtual int64_t created() const = 0;

  // "fp_..." of program and model: while it is the same, a request with a seed gets the same tokens.
  virtual const std::string& system_fingerprint() const = 0;
};

// From CompletionRequest to CompletionEvents: tokenizes, checks against the model, submits one GenerateRequest for each
// prompt, turns tokens into text, stop strings into CancelChoice, ranks best_of. Knows no protocol. Any thread may
// call.
//
// Randomness  choice j of a prompt depends on the prompt, the seed and j alone. A seed that the client gives is every
//             prompt's, so that a prompt in a list is answered as it would be alone; without one each draws its own.
class CompletionService {
 public:
  struct Options {
    std::string served_model_name;
    int64_t model_created = 0;      // seconds since 1970
    int32_t tokenizer_threads = 1;  // text longer than inline_text_bytes is tokenized on these
    int32_t inline_text_bytes = 16 * 1024;
    int32_t max_waiting_texts = 256;  // long texts that wait for those threads; more are ResourceExhausted
    Metrics* metrics = nullptr;       // borrowed; nullptr: nothing is counted
    KeyQuotas* quotas = nullptr;      // borrowed; nullptr: no key has limits
    UsageLedger* ledger = nullptr;    // borrowed, outlives the engine; nullptr: nothing is recorded
  };

  // `tokenizer` is none for a model that is served for ids only. Both outlive the service.
  CompletionService(EngineClient& engine, std::optional<Tokenizer> tokenizer, Options options);

  // Calls that wait to be tokenized fail with shutting_down.
  ~CompletionService();

  // Begins a request. `on_ready` is called from any thread, also from within Start, whenever Take may have something
  // new: at least once after the last event; calls may be spurious. It must not block and must not call Take itself. It
  // may still run when the call has been cancelled or destroyed by another thread, so it owns what it touches.
  // Errors, of the request too (unknown model, too long, tokenizer_missing), come from Take. `trace` is told what
  // became of it, when the engine is through with it; nullptr: nobody records it. `received_ns`: when the request had
  // come whole, on the monotonic clock; 0: now.
  std::shared_ptr<CompletionCall> Start(CompletionRequest request, std::function<void()> on_ready,
                                        std::shared_ptr<RequestTrace> trace = nullptr, int64_t received_ns = 0);

  // The tokenizer alone, for a client whose key has `api_key_id`. Each call is one of the key's requests a minute and
  // at a time. Takes as long as the text is; any thread. Errors as of a completion: another `model` than the one
  // served, tokenizer_missing for a model that is served for ids only, the key's limits; and of Detokenize, which shows
  // special tokens, InvalidArgument with the path of an id that the model does not have.
  absl::StatusOr<std::vector<int32_t>> Tokenize(std::string_view api_key_id, std::string_view model,
                                                std::string_view text, const EncodeOptions& encode) const;
  absl::StatusOr<std::string> Detokenize(std::string_view api_key_id, std::string_view model,
                                         std::span<const int32_t> tokens) const;

  // nullptr: ids only.
  const Tokenizer* tokenizer() const;
  const EngineClient& engine() const;
  const Options& options() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optserve
