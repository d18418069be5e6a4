#include "clients/bench/workload.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "absl/strings/str_cat.h"

namespace optserve::bench {
namespace {

constexpr int32_t kFirstId = 4;  // after the special tokens

// The standard's distributions differ between libraries; its generators do not.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}

  double Uniform() { return (static_cast<double>(bits_() >> 11) + 0.5) * 0x1p-53; }  // in (0, 1)
  double Normal() {                                                                  // Box and Muller 1958
    const double radius = std::sqrt(-2.0 * std::log(Uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * Uniform());
  }
  double Exponential() { return -std::log(Uniform()); }

 private:
  std::mt19937_64 bits_;
};

class Maker {
 public:
  explicit Maker(const WorkloadOptions& options) : options_(options), random_(options.seed) {}

  LoadRequest Make(int64_t index) {
    const WorkloadOptions& o = options_;
    if (o.name == "sharegpt") return Plain(Length(kShareGptPrompt), Length(kShareGptOutput), "");
    if (o.name == "prefill-heavy") return Plain(4 * o.prompt_tokens, o.output_tokens / 8, "");
    if (o.name == "shared-prefix") return WithPrefix();
    if (o.name != "interference") return Plain(o.prompt_tokens, o.output_tokens, "");
    return index % 4 == 3 ? Plain(4 * o.prompt_tokens, 1, "prompt")
                          : Plain(o.prompt_tokens / 16, o.output_tokens, "stream");
  }

 private:
  int32_t Length(const LogNormal& lengths) {
    const double drawn = std::exp(lengths.mu + lengths.sigma * random_.Normal()) * options_.length_scale;
    return static_cast<int32_t>(std::clamp(drawn, 1.0, 1e6));
  }

  std::vector<int32_t> Ids(int32_t count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    const double range = options_.vocab_size - kFirstId;
    for (int32_t& id : ids) id = kFirstId + static_cast<int32_t>(random_.Uniform() * range);
    return ids;
  }

  LoadRequest Plain(int32_t prompt_tokens, int32_t output_tokens, std::string kind) {
    const int32_t prompt = std::clamp(prompt_tokens, 1, options_.max_length - 1);
    const int32_t output = std::clamp(output_tokens, 1, options_.max_length - prompt);
    return {.prompt = Ids(prompt), .output_tokens = output, .kind = std::move(kind)};
  }

  LoadRequest WithPrefix() {
    if (prefix_.empty()) prefix_ = Ids(options_.prefix_tokens);
    LoadRequest request{.prompt = prefix_, .output_tokens = options_.output_tokens};
    const std::vector<int32_t> own = Ids(options_.prompt_tokens);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    return request;
  }

  const WorkloadOptions& options_;
  Random random_;
  std::vector<int32_t> prefix_;
};

}  // namespace

absl::StatusOr<std::vector<LoadRequest>> MakeWorkload(const WorkloadOptions& options, int64_t num_requests) {
  constexpr std::string_view kNames[] = {"fixed", "sharegpt", "shared-prefix", "prefill-heavy", "interference"};
  if (std::ranges::find(kNames, options.name) == std::end(kNames)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the workload is '", options.name,
                     "', and there are fixed, sharegpt, shared-prefix, prefill-heavy and interference"));
  }
  if (options.prompt_tokens < 1 || options.output_tokens < 1 || options.prefix_tokens < 1) {
    return absl::InvalidArgumentError("prompt, output and prefix must have at least 1 token");
  }
  if (options.vocab_size <= kFirstId) {
    return absl::InvalidArgumentError(absl::StrCat("the vocabulary has ", options.vocab_size, " ids; it needs 5"));
  }
  const bool has_prefix = options.name == "shared-prefix";
  const int64_t longest =
      int64_t{options.prompt_tokens} + options.output_tokens + (has_prefix ? options.prefix_tokens : 0);
  if ((has_prefix || options.name == "fixed") && longest > options.max_length) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and output are ", longest, " tokens together, and at most ",
                                                   options.max_length, " are allowed"));
  }
  Maker maker(options);
  std::vector<LoadRequest> requests;
  for (int64_t i = 0; i < num_requests; ++i) requests.push_back(maker.Make(i));
  return requests;
}

std::vector<double> PoissonArrivals(double per_second, int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<double> due;
  double at = 0.0;
  for (int64_t i = 0; i < count; ++i) due.push_back(at += random.Exponential() / per_second);
  return due;
}

std::vector<double> EvenArrivals(double per_second, int64_t count) {
  std::vector<double> due;
  for (int64_t i = 0; i < count; ++i) due.push_back(static_cast<double>(i) / per_second);
  return due;
}

}  // namespace optserve::bench
