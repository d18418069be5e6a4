#include "engine/scheduler/step_plan_bytes.h"

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/util/status.h"

namespace optserve {
namespace {

// Both directions go over the same fields by the functions named Walk below, so that they cannot differ.
class Writer {
 public:
  template <typename T>
  void Number(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }

  template <typename T, typename Element>
  void List(const std::vector<T>& list, const Element& element) {
    Number(static_cast<uint32_t>(list.size()));
    for (const T& item : list) element(*this, item);
  }

  void Numbers(const std::vector<int32_t>& list) {
    Number(static_cast<uint32_t>(list.size()));
    bytes_.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(int32_t));
  }

  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// What is not there is read as zeros, and has_failed() says so.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void Number(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      uint8_t byte = 0;
      Number(byte);
      value = byte != 0;
    } else {
      Copy(&value, sizeof(T));
    }
  }

  template <typename T, typename Element>
  void List(std::vector<T>& list, const Element& element) {
    uint32_t size = 0;
    Number(size);
    // Each item takes a byte at least.
    if (size > bytes_.size()) return Fail();
    list.resize(size);
    for (T& item : list) element(*this, item);
  }

  void Numbers(std::vector<int32_t>& list) {
    uint32_t size = 0;
    Number(size);
    if (size > bytes_.size() / sizeof(int32_t)) return Fail();
    list.resize(size);
    Copy(list.data(), size * sizeof(int32_t));
  }

  bool has_failed() const { return has_failed_; }
  bool is_at_end() const { return bytes_.empty(); }

 private:
  void Fail() {
    has_failed_ = true;
    bytes_ = {};
  }

  void Copy(void* to, size_t size) {
    if (size > bytes_.size()) return Fail();
    if (size > 0) std::memcpy(to, bytes_.data(), size);
    bytes_.remove_prefix(size);
  }

  std::string_view bytes_;
  bool has_failed_ = false;
};

template <typename Archive, typename Params>  // SamplingParams, const or not; likewise below
void WalkSampling(Archive& archive, Params& p) {
  archive.Number(p.temperature);
  archive.Number(p.top_k);
  archive.Number(p.top_p);
  archive.Number(p.min_p);
  archive.Number(p.typical_p);
  archive.Number(p.repetition_penalty);
  archive.Number(p.presence_penalty);
  archive.Number(p.frequency_penalty);
  archive.List(p.logit_bias, [](auto& a, auto& bias) {
    a.Number(bias.first);
    a.Number(bias.second);
  });
  archive.Number(p.seed);
  archive.Number(p.vocab_limit);
  archive.Number(p.num_logprobs);
  archive.Number(p.min_tokens);
  archive.Number(p.no_repeat_ngram_size);
}

template <typename Archive, typename Slice>
void WalkSlice(Archive& archive, Slice& slice) {
  archive.Number(slice.sequence);
  archive.Number(slice.num_tokens);
  archive.Number(slice.num_cached);
  archive.Numbers(slice.block_table);
  archive.Number(slice.wants_sample);
  WalkSampling(archive, slice.sampling);
  archive.Number(slice.choice);
  archive.Numbers(slice.suppressed);
  archive.List(slice.seen, [](auto& a, auto& seen) {
    a.Number(seen.id);
    a.Number(seen.generated);
  });
  archive.Number(slice.score_begin);
  archive.Numbers(slice.score_targets);
  archive.Number(slice.num_score_logprobs);
}

template <typename Archive, typename Plan>
void WalkPlan(Archive& archive, Plan& plan) {
  archive.Number(plan.step);
  archive.Number(plan.num_decode);
  archive.List(plan.slices, [](auto& a, auto& slice) { WalkSlice(a, slice); });
  archive.Numbers(plan.token_ids);
  archive.Numbers(plan.zeroed_blocks);
  archive.List(plan.block_copies, [](auto& a, auto& copy) {
    a.Number(copy.src);
    a.Number(copy.dst);
  });
}

}  // namespace

std::string EncodeStepPlan(const StepPlan& plan) {
  Writer writer;
  WalkPlan(writer, plan);
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(std::string_view bytes) {
  Reader reader(bytes);
  StepPlan plan;
  WalkPlan(reader, plan);
  if (reader.has_failed() || !reader.is_at_end())
    return InvalidArgument("{} bytes that are no step plan", bytes.size());
  return plan;
}

}  // namespace optserve
