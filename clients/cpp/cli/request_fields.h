#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "optserve/v1/completion.pb.h"

namespace optserve::cli {

// A field of CompletionRequest that `complete` has as a flag: max_tokens as --max-tokens. Bounds and defaults are the
// server's to say.
struct RequestField {
  std::string_view name;
  std::string_view help;
  bool is_switch = false;    // takes no value: true
  bool is_repeated = false;  // given again, it adds
};

std::span<const RequestField> RequestFields();

// Sets or adds to the field `name`. InvalidArgument if `text` is no number where one is needed.
absl::Status SetField(std::string_view name, const std::string& text, v1::CompletionRequest& request);

}  // namespace optserve::cli
