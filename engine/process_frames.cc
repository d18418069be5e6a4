#include "engine/process_frames.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/cord.h"

namespace optserve {
namespace {

void ToProto(const SamplingParams& from, internal::SamplingParams* to) {
  to->set_temperature(from.temperature);
  to->set_top_k(from.top_k);
  to->set_top_p(from.top_p);
  to->set_min_p(from.min_p);
  to->set_typical_p(from.typical_p);
  to->set_repetition_penalty(from.repetition_penalty);
  to->set_presence_penalty(from.presence_penalty);
  to->set_frequency_penalty(from.frequency_penalty);
  for (const auto& [id, bias] : from.logit_bias) {
    to->add_logit_bias_ids(id);
    to->add_logit_bias_values(bias);
  }
  to->set_seed(from.seed);
  to->set_vocab_limit(from.vocab_limit);
  to->set_num_logprobs(from.num_logprobs);
  to->set_min_tokens(from.min_tokens);
  to->set_no_repeat_ngram_size(from.no_repeat_ngram_size);
}

SamplingParams FromProto(const internal::SamplingParams& from) {
  SamplingParams to = {
      .temperature = from.temperature(),
      .top_k = from.top_k(),
      .top_p = from.top_p(),
      .min_p = from.min_p(),
      .typical_p = from.typical_p(),
      .repetition_penalty = from.repetition_penalty(),
      .presence_penalty = from.presence_penalty(),
      .frequency_penalty = from.frequency_penalty(),
      .seed = from.seed(),
      .vocab_limit = from.vocab_limit(),
      .num_logprobs = from.num_logprobs(),
      .min_tokens = from.min_tokens(),
      .no_repeat_ngram_size = from.no_repeat_ngram_size(),
  };
  // As many as both lists have: an engine that is broken must not make the front end read beyond one.
  for (int i = 0; i < std::min(from.logit_bias_ids_size(), from.logit_bias_values_size()); ++i) {
    to.logit_bias.emplace_back(from.logit_bias_ids(i), from.logit_bias_values(i));
  }
  return to;
}

void ToProto(const TokenScore& from, internal::TokenScore* to) {
  to->set_id(from.id);
  to->set_logprob(from.logprob);
  for (const TokenLogprob& top : from.top) {
    to->add_top_ids(top.id);
    to->add_top_logprobs(top.logprob);
  }
}

TokenScore FromProto(const internal::TokenScore& from) {
  TokenScore to = {.id = from.id(), .logprob = from.logprob()};
  to.top.reserve(static_cast<size_t>(from.top_ids_size()));
  for (int i = 0; i < std::min(from.top_ids_size(), from.top_logprobs_size()); ++i) {
    to.top.push_back({.id = from.top_ids(i), .logprob = from.top_logprobs(i)});
  }
  return to;
}

template <typename Repeated>
void Assign(const std::vector<int32_t>& from, Repeated* to) {
  to->Assign(from.begin(), from.end());
}

template <typename Repeated>
std::vector<int32_t> Vector(const Repeated& from) {
  return {from.begin(), from.end()};
}

}  // namespace

void ToProto(const absl::Status& from, internal::Status* to) {
  to->set_code(static_cast<int32_t>(from.code()));
  to->set_message(std::string(from.message()));
  from.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    (*to->mutable_payloads())[std::string(url)] = std::string(payload);
  });
}

absl::Status FromProto(const internal::Status& from) {
  absl::Status to(static_cast<absl::StatusCode>(from.code()), from.message());
  for (const auto& [url, payload] : from.payloads()) to.SetPayload(url, absl::Cord(payload));
  return to;
}

void ToProto(const GenerateRequest& from, internal::GenerateRequest* to) {
  to->set_id(from.id);
  Assign(from.prompt, to->mutable_prompt());
  to->set_max_tokens(from.max_tokens);
  ToProto(from.sampling, to->mutable_sampling());
  to->set_num_choices(from.num_choices);
  to->set_first_choice(from.first_choice);
  Assign(from.stop_token_ids, to->mutable_stop_token_ids());
  to->set_num_prompt_logprobs(from.num_prompt_logprobs);
  Assign(from.generated, to->mutable_generated());
  to->set_prompt_scores_sent(from.prompt_scores_sent);
  to->set_admitted(from.admitted);
  to->set_api_key_id(from.api_key_id);
  to->set_user(from.user);
  to->set_cache_salt(from.cache_salt);
  to->set_priority(from.priority);
  to->set_deadline_ns(from.deadline_ns);
  to->set_batch(from.batch);
  to->set_share_weight(from.share_weight);
}

GenerateRequest FromProto(const internal::GenerateRequest& from) {
  return {
      .id = from.id(),
      .prompt = Vector(from.prompt()),
      .max_tokens = from.max_tokens(),
      .sampling = FromProto(from.sampling()),
      .num_choices = from.num_choices(),
      .first_choice = from.first_choice(),
      .stop_token_ids = Vector(from.stop_token_ids()),
      .num_prompt_logprobs = from.num_prompt_logprobs(),
      .generated = Vector(from.generated()),
      .prompt_scores_sent = from.prompt_scores_sent(),
      .admitted = from.admitted(),
      .api_key_id = from.api_key_id(),
      .user = from.user(),
      .cache_salt = from.cache_salt(),
      .priority = from.priority(),
      .deadline_ns = from.deadline_ns(),
      .batch = from.batch(),
      .share_weight = from.share_weight(),
  };
}

void ToProto(const TokenEvent& from, internal::TokenEvent* to) {
  to->set_request(from.request);
  to->set_choice(from.choice);
  if (from.token.has_value()) ToProto(*from.token, to->mutable_token());
  to->set_finish(static_cast<int32_t>(from.finish));
  for (const TokenScore& score : from.prompt_scores) ToProto(score, to->add_prompt_scores());
  to->set_prompt_scores_begin(from.prompt_scores_begin);
  to->set_cached_tokens(from.cached_tokens);
  to->set_queue_ns(from.queue_ns);
  to->set_engine_ns(from.engine_ns);
  if (!from.error.ok()) ToProto(from.error, to->mutable_error());
}

TokenEvent FromProto(const internal::TokenEvent& from) {
  TokenEvent to = {
      .request = from.request(),
      .choice = from.choice(),
      .finish = static_cast<FinishReason>(from.finish()),
      .prompt_scores_begin = from.prompt_scores_begin(),
      .cached_tokens = from.cached_tokens(),
      .queue_ns = from.queue_ns(),
      .engine_ns = from.engine_ns(),
  };
  if (from.has_token()) to.token = FromProto(from.token());
  to.prompt_scores.reserve(static_cast<size_t>(from.prompt_scores_size()));
  for (const internal::TokenScore& score : from.prompt_scores()) to.prompt_scores.push_back(FromProto(score));
  if (from.has_error()) to.error = FromProto(from.error());
  return to;
}

void ToProto(const ModelInfo& from, internal::ModelInfo* to) {
  to->set_vocab_size(from.vocab_size);
  to->set_max_model_len(from.max_model_len);
  Assign(from.eos_token_ids, to->mutable_eos_token_ids());
  to->set_bos_token_id(from.bos_token_id);
  to->set_max_num_seqs(from.max_num_seqs);
  to->set_kv_tokens(from.kv_tokens);
  to->set_weight_bytes(from.weight_bytes);
  to->set_num_parameters(from.num_parameters);
}

ModelInfo FromProto(const internal::ModelInfo& from) {
  return {
      .vocab_size = from.vocab_size(),
      .max_model_len = from.max_model_len(),
      .eos_token_ids = Vector(from.eos_token_ids()),
      .bos_token_id = from.bos_token_id(),
      .max_num_seqs = from.max_num_seqs(),
      .kv_tokens = from.kv_tokens(),
      .weight_bytes = from.weight_bytes(),
      .num_parameters = from.num_parameters(),
  };
}

namespace {

void ToProto(const StepAccount& from, internal::StepAccount* to) {
  to->set_steps(from.steps);
  to->mutable_phase_ns()->Assign(from.times.ns.begin(), from.times.ns.end());
  to->set_weight_bytes(from.demand.weight_bytes);
  to->set_kv_bytes(from.demand.kv_bytes);
  to->set_weight_flops(from.demand.weight_flops);
  to->set_attention_flops(from.demand.attention_flops);
}

StepAccount FromProto(const internal::StepAccount& from) {
  StepAccount to = {.steps = from.steps(),
                    .demand = {.weight_bytes = from.weight_bytes(),
                               .kv_bytes = from.kv_bytes(),
                               .weight_flops = from.weight_flops(),
                               .attention_flops = from.attention_flops()}};
  const size_t num_phases = std::min(to.times.ns.size(), static_cast<size_t>(from.phase_ns_size()));
  for (size_t i = 0; i < num_phases; ++i) to.times.ns[i] = from.phase_ns(static_cast<int>(i));
  return to;
}

}  // namespace

void ToProto(const EngineStats& from, internal::EngineStats* to) {
  to->set_running(from.running);
  to->set_waiting(from.waiting);
  to->set_blocks_total(from.blocks_total);
  to->set_blocks_used(from.blocks_used);
  to->set_steps(from.steps);
  to->set_prompt_tokens(from.prompt_tokens);
  to->set_generated_tokens(from.generated_tokens);
  to->set_preemptions(from.preemptions);
  to->set_prefix_cache_queries(from.prefix_cache_queries);
  to->set_prefix_cache_hits(from.prefix_cache_hits);
  to->set_nonfinite_rows(from.nonfinite_rows);
  to->set_step_seconds(from.step_seconds);
  to->set_last_step_seconds(from.last_step_seconds);
  to->set_last_step_tokens(from.last_step_tokens);
  ToProto(from.step_account, to->mutable_step_account());
  ToProto(from.request_account, to->mutable_request_account());
  to->set_request_seconds(from.request_seconds);
}

EngineStats FromProto(const internal::EngineStats& from) {
  return {
      .running = from.running(),
      .waiting = from.waiting(),
      .blocks_total = from.blocks_total(),
      .blocks_used = from.blocks_used(),
      .steps = from.steps(),
      .prompt_tokens = from.prompt_tokens(),
      .generated_tokens = from.generated_tokens(),
      .preemptions = from.preemptions(),
      .prefix_cache_queries = from.prefix_cache_queries(),
      .prefix_cache_hits = from.prefix_cache_hits(),
      .nonfinite_rows = from.nonfinite_rows(),
      .step_seconds = from.step_seconds(),
      .last_step_seconds = from.last_step_seconds(),
      .last_step_tokens = from.last_step_tokens(),
      .step_account = FromProto(from.step_account()),
      .request_account = FromProto(from.request_account()),
      .request_seconds = from.request_seconds(),
  };
}

void ToProto(const StepRecord& from, internal::StepRecord* to) {
  to->set_step(from.step);
  to->set_begin_ns(from.begin_ns);
  to->set_num_tokens(from.num_tokens);
  to->set_num_sequences(from.num_sequences);
  ToProto(StepAccount{.steps = 1, .times = from.times, .demand = from.demand}, to->mutable_account());
}

StepRecord FromProto(const internal::StepRecord& from) {
  const StepAccount account = FromProto(from.account());
  return {
      .step = from.step(),
      .begin_ns = from.begin_ns(),
      .num_tokens = from.num_tokens(),
      .num_sequences = from.num_sequences(),
      .times = account.times,
      .demand = account.demand,
  };
}

}  // namespace optserve
