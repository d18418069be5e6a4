#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "server/api/completion.h"

// The fields of a completion request as data: one table that both codecs, the checks, /v1/capabilities and the OpenAPI
// document are made from. A new field is a line here, one in completion.h and proto, and the place where it acts.

namespace optserve {

// Fields that are more than a member to be set.
struct PromptField {};         // string, [string], [id], [[id]]
struct StopField {};           // string or [string]
struct LogitBiasField {};      // {"id": number}
struct StreamOptionsField {};  // {"include_usage", "continuous_usage_stats"}
struct MetadataField {};       // any object; has no effect
struct UnsupportedField {};    // only null

// Where a field's value goes.
using FieldTarget =
    std::variant<bool CompletionRequest::*, int32_t CompletionRequest::*, float CompletionRequest::*,
                 std::string CompletionRequest::*, std::optional<int32_t> CompletionRequest::*,
                 std::optional<int64_t> CompletionRequest::*, std::optional<double> CompletionRequest::*,
                 std::vector<int32_t> CompletionRequest::*, PromptField, StopField, LogitBiasField, StreamOptionsField,
                 MetadataField, UnsupportedField>;

// What numbers a field takes. For a list or a map: what numbers are in it.
struct FieldBounds {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool excludes_min = false;
  size_t max_size = std::numeric_limits<size_t>::max();  // bytes of a string, entries of a list or a map
};

struct CompletionField {
  std::string_view name;  // in JSON and in proto
  FieldTarget target;
  FieldBounds bounds;
  std::string_view default_json;  // what absent and null mean
  std::string_view description;   // a line for users; of an unsupported field: why
};

std::span<const CompletionField> CompletionFields();

// nullptr: there is no such field.
const CompletionField* FindCompletionField(std::string_view name);

// The names of stream_options' members, and where they go.
std::span<const std::pair<std::string_view, bool CompletionRequest::*>> StreamOptionFields();

// InvalidArgument with `param` as its path, unless the bounds hold `value`.
absl::Status CheckFieldNumber(const FieldBounds& bounds, std::string_view param, double value);

// The same for a number that is kept as a float: what is within the bounds may be 0 there.
absl::Status CheckFieldFloat(const FieldBounds& bounds, std::string_view param, double value);

// The same for the length of a string, list or map.
absl::Status CheckFieldSize(const CompletionField& field, size_t size);

// What errors call a prompt: "prompt", or "prompt[1]" in a list of them.
std::string PromptPath(const CompletionRequest& request, size_t index);

// What one request may ask for.
struct RequestLimits {
  int32_t max_choices = 256;                 // prompts x max(n, best_of)
  size_t text_body_bytes = 2 * 1024 * 1024;  // JSON with text prompts; ids may have as much as the transport reads
};

// All that can be said about a request without the model; what both codecs end with. Every field's bounds, then the
// rules between fields. InvalidArgument names the field in `param`. Brings top_k = -1 to its other spelling, 0.
absl::Status ValidateCompletionRequest(const RequestLimits& limits, CompletionRequest& request);

}  // namespace optserve
