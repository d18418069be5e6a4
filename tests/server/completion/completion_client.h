#pragma once

#include <algorithm>
#include <condition_variable>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "server/api/json_response.h"
#include "server/completion/choice_assembler.h"
#include "server/completion/completion_service.h"
#include "tests/support/fake_engine_client.h"
#include "tests/support/test_data.h"

namespace optserve {

inline std::unique_ptr<CompletionService> MakeService(EngineClient& engine, CompletionService::Options options = {}) {
  options.served_model_name = "demo";
  return std::make_unique<CompletionService>(engine, Tokenizer::Load(DemoModelPath()).value(), options);
}

inline Prompt Text(std::string text) { return text; }
inline Prompt Ids(std::vector<int32_t> ids) { return ids; }

// A transport: waits for on_ready and takes until the call is done.
class Client {
 public:
  Client(CompletionService& service, CompletionRequest request) {
    call_ = service.Start(std::move(request), [state = state_] {
      const std::lock_guard lock(state->mu);
      state->ready = true;
      state->changed.notify_one();
    });
  }

  // Waits for the next wake-up, then takes.
  CompletionBatch Next() {
    {
      std::unique_lock lock(state_->mu);
      state_->changed.wait(lock, [&] { return state_->ready; });
      state_->ready = false;
    }
    return call_->Take();
  }

  // All of it.
  CompletionBatch Finish() {
    CompletionBatch all;
    while (!all.done) {
      CompletionBatch batch = Next();
      std::ranges::move(batch.events, std::back_inserter(all.events));
      all.error = batch.error;
      all.done = batch.done;
    }
    return all;
  }

  CompletionCall& call() { return *call_; }
  void Leave() { call_.reset(); }

 private:
  struct State {
    std::mutex mu;
    std::condition_variable changed;
    bool ready = false;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
  std::shared_ptr<CompletionCall> call_;
};

inline CompletionBatch Complete(CompletionService& service, CompletionRequest request) {
  return Client(service, std::move(request)).Finish();
}

// Pieces of a stream put together, by index.
inline std::vector<CompletionEvent> PutTogether(std::vector<CompletionEvent> pieces) {
  std::map<int32_t, CompletionEvent> whole;
  for (CompletionEvent& piece : pieces) {
    const int32_t index = piece.index;
    Append(std::move(piece), whole[index]);
    whole[index].index = index;
  }
  std::vector<CompletionEvent> choices;
  for (auto& [index, choice] : whole) choices.push_back(std::move(choice));
  return choices;
}

inline std::string Print(const std::vector<CompletionEvent>& choices) {
  return EncodeCompletion({}, {.logprobs = true, .prompt_logprobs = true, .token_ids = true}, choices, {});
}

}  // namespace optserve
