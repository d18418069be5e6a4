#include "engine/planner/deployment.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/util/status.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

constexpr double kGigabyte = 1e9;
constexpr int32_t kMaxBatch = 1024;

Interval StepSeconds(const CostModel& model, const StepWork& work) {
  return {model.Step(work, Outlook::kFast).total(), model.Step(work, Outlook::kLikely).total(),
          model.Step(work, Outlook::kSlow).total()};
}

DeploymentOption Forecast(const DeploymentRequest& request, int32_t tensor_parallel_size) {
  const CostModel model({.model = request.model,
                         .node = request.node,
                         .profile = request.profile,
                         .tensor_parallel_size = tensor_parallel_size,
                         .weight_bytes = request.weight_bytes,
                         .kv_bytes = request.kv_bytes});
  const int64_t sequence_tokens = request.prompt_tokens + request.output_tokens;
  DeploymentOption option{.tensor_parallel_size = tensor_parallel_size,
                          .num_replicas = request.node.num_devices / tensor_parallel_size,
                          .weight_bytes_per_device = model.WeightBytes(),
                          .kv_tokens = model.KvTokens()};
  if (option.kv_tokens <= 0) return option;
  option.max_full_length = option.kv_tokens / request.model.max_positions;
  option.max_concurrency = option.kv_tokens / sequence_tokens;
  if (option.max_concurrency == 0) return option;
  option.first_token_seconds = StepSeconds(model, PrefillWork(request.prompt_tokens));
  const int64_t largest = std::min<int64_t>(option.max_concurrency, kMaxBatch);
  std::vector<int64_t> batches = {1, 8, 32, 64, 128, 256, 512};
  std::erase_if(batches, [&](int64_t batch) { return batch >= largest; });
  batches.push_back(largest);
  const int64_t context = request.prompt_tokens + request.output_tokens / 2;
  for (const int64_t batch : batches) {
    const StepWork work = DecodeWork(batch, context);
    const Interval seconds = StepSeconds(model, work);
    const auto rate = [&](double step) { return static_cast<double>(batch * option.num_replicas) / step; };
    option.batches.push_back({.batch = batch,
                              .next_token_seconds = seconds,
                              .tokens_per_second = {rate(seconds.fast), rate(seconds.likely), rate(seconds.slow)},
                              .parts = model.Step(work)});
  }
  return option;
}

std::string Milliseconds(const Interval& seconds) {
  return fmt::format("{:.1f} ({:.1f} - {:.1f})", seconds.likely * 1e3, seconds.fast * 1e3, seconds.slow * 1e3);
}

std::string Rate(const Interval& rate) {
  return fmt::format("{:.0f} ({:.0f} - {:.0f})", rate.likely, rate.slow, rate.fast);
}

// The one that the page shows in full: the most tokens a second when it is full.
const DeploymentOption* MostTokens(const Deployment& deployment) {
  const DeploymentOption* best = nullptr;
  for (const DeploymentOption& option : deployment.options) {
    if (!option.fits()) continue;
    if (best == nullptr ||
        option.batches.back().tokens_per_second.likely > best->batches.back().tokens_per_second.likely) {
      best = &option;
    }
  }
  return best;
}

nlohmann::ordered_json ToJson(const Interval& interval) {
  return {{"likely", interval.likely}, {"fast", interval.fast}, {"slow", interval.slow}};
}

}  // namespace

absl::StatusOr<Deployment> PlanDeployment(const DeploymentRequest& request) {
  if (request.prompt_tokens < 1 || request.output_tokens < 1 ||
      int64_t{request.prompt_tokens} + request.output_tokens > request.model.max_positions) {
    return InvalidArgument(
        "a prompt of {} and an answer of {} tokens must be at least one token each and together at "
        "most {}, the model's context",
        request.prompt_tokens, request.output_tokens, request.model.max_positions);
  }
  Deployment deployment{.request = request};
  for (int32_t size = 1; size <= request.node.num_devices; ++size) {
    if (request.model.num_heads % size != 0 || request.model.ffn_size % size != 0) continue;
    deployment.options.push_back(Forecast(request, size));
  }
  return deployment;
}

std::string DeploymentText(const Deployment& deployment) {
  const DeploymentRequest& request = deployment.request;
  std::string text = fmt::format(
      "{} on {} ({}), engine {}: modelled, not measured. Likely (fast - slow).\n"
      "A prompt of {} and an answer of {} tokens; weights {} bytes each, KV cache {} bytes each.\n\n"
      "{:>5} x {:<8} {:>10}  {:>9}  {:>9}  {:>10}  {:>26}  {:>24}  {:>26}\n",
      request.model_name, request.node.name, request.node.devices, request.profile.name, request.prompt_tokens,
      request.output_tokens, request.weight_bytes, request.kv_bytes, "ranks", "replicas", "weights GB", "KV tokens",
      "sequences", "of 2048", "first token ms", "next token ms, alone", "tokens/s, full");
  for (const DeploymentOption& option : deployment.options) {
    text += fmt::format("{:>5} x {:<8} {:>10.1f}  ", option.tensor_parallel_size, option.num_replicas,
                        option.weight_bytes_per_device / kGigabyte);
    text += !option.fits()
                ? std::string("does not fit\n")
                : fmt::format("{:>9}  {:>9}  {:>10}  {:>26}  {:>24}  {:>26}\n", option.kv_tokens,
                              option.max_concurrency, option.max_full_length, Milliseconds(option.first_token_seconds),
                              Milliseconds(option.batches.front().next_token_seconds),
                              Rate(option.batches.back().tokens_per_second));
  }
  const DeploymentOption* best = MostTokens(deployment);
  if (best == nullptr) {
    return text +
           fmt::format("\nIt does not fit on {}. Use a larger node, or weights of fewer bytes.\n", request.node.name);
  }
  text += fmt::format(
      "\n{} ranks x {} replicas, by sequences of a replica that are decoded at once; where the time goes, "
      "ms\n{:>9}  {:>24}  {:>26}  {:>8} {:>6} {:>6} {:>9} {:>10} {:>6} {:>6}\n",
      best->tensor_parallel_size, best->num_replicas, "sequences", "next token ms", "tokens/s, all", "products", "head",
      "KV", "attention", "all-reduce", "layers", "host");
  for (const BatchForecast& batch : best->batches) {
    const StepCost& parts = batch.parts;
    text += fmt::format("{:>9}  {:>24}  {:>26}  {:>8.2f} {:>6.2f} {:>6.2f} {:>9.2f} {:>10.2f} {:>6.2f} {:>6.2f}\n",
                        batch.batch, Milliseconds(batch.next_token_seconds), Rate(batch.tokens_per_second),
                        parts.products * 1e3, parts.head * 1e3, parts.kv * 1e3, parts.attention * 1e3,
                        parts.all_reduce * 1e3, parts.layers * 1e3, parts.host * 1e3);
  }
  text += fmt::format("\nnode    {}\nengine  {}\n", request.node.source, request.profile.source);
  return text;
}

std::string DeploymentJson(const Deployment& deployment) {
  const DeploymentRequest& request = deployment.request;
  nlohmann::ordered_json json;
  json["kind"] = "modelled";
  json["model"] = request.model_name;
  json["node"] = {{"name", request.node.name}, {"devices", request.node.devices}, {"source", request.node.source}};
  json["engine"] = {{"name", request.profile.name}, {"source", request.profile.source}};
  json["prompt_tokens"] = request.prompt_tokens;
  json["output_tokens"] = request.output_tokens;
  json["bytes_per_weight"] = request.weight_bytes;
  json["bytes_per_kv_number"] = request.kv_bytes;
  json["options"] = nlohmann::ordered_json::array();
  for (const DeploymentOption& option : deployment.options) {
    nlohmann::ordered_json entry;
    entry["tensor_parallel_size"] = option.tensor_parallel_size;
    entry["replicas"] = option.num_replicas;
    entry["fits"] = option.fits();
    entry["weight_bytes_per_device"] = option.weight_bytes_per_device;
    entry["kv_tokens_per_replica"] = std::max<int64_t>(option.kv_tokens, 0);
    if (option.fits()) {
      entry["sequences_per_replica"] = option.max_concurrency;
      entry["full_length_sequences_per_replica"] = option.max_full_length;
      entry["first_token_seconds"] = ToJson(option.first_token_seconds);
      entry["batches"] = nlohmann::ordered_json::array();
      for (const BatchForecast& batch : option.batches) {
        const StepCost& parts = batch.parts;
        entry["batches"].push_back({{"sequences", batch.batch},
                                    {"next_token_seconds", ToJson(batch.next_token_seconds)},
                                    {"tokens_per_second", ToJson(batch.tokens_per_second)},
                                    {"seconds",
                                     {{"products", parts.products},
                                      {"head", parts.head},
                                      {"kv", parts.kv},
                                      {"attention", parts.attention},
                                      {"all_reduce", parts.all_reduce},
                                      {"layers", parts.layers},
                                      {"host", parts.host}}}});
      }
    }
    json["options"].push_back(std::move(entry));
  }
  return json.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace optserve
