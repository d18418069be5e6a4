#include "clients/cpp/cli/request_fields.h"

#include <fmt/format.h>
#include <google/protobuf/message.h>

#include <array>
#include <charconv>

namespace optserve::cli {
namespace {

using google::protobuf::FieldDescriptor;

constexpr std::array kFields = {
    RequestField{"model", "the name of the model (default: the one that is served)"},
    RequestField{"max_tokens", "generated tokens at most (default: 16)"},
    RequestField{"min_tokens", "no end before that many (default: 0)"},
    RequestField{"temperature", "0 is greedy (default: 1)"},
    RequestField{"top_p", "sample from the likeliest tokens that together have this probability (default: 1)"},
    RequestField{"top_k", "sample from that many likeliest tokens (default: all)"},
    RequestField{"min_p", "sample from tokens with at least this share of the likeliest one's probability"},
    RequestField{"typical_p", "sample from the most typical tokens that together have this probability"},
    RequestField{"presence_penalty", "on each token that was generated before"},
    RequestField{"frequency_penalty", "for each time that a token was generated before"},
    RequestField{"repetition_penalty", "on tokens in the prompt or generated before (default: 1)"},
    RequestField{"no_repeat_ngram_size", "no sequence of that many tokens comes twice"},
    RequestField{"seed", "same request and seed, same tokens"},
    RequestField{"n", "answers to each prompt (default: 1)"},
    RequestField{"best_of", "generate that many, show the n best"},
    RequestField{"stop", "text that ends an answer; may be given again", false, true},
    RequestField{"include_stop_str_in_output", "cut behind the stop text, not before it", true},
    RequestField{"stop_token_ids", "token id that ends an answer; may be given again", false, true},
    RequestField{"ignore_eos", "the end-of-sequence token does not end an answer", true},
    RequestField{"logprobs", "with --json: of each token and of that many best"},
    RequestField{"echo", "the prompt in front of the answer", true},
    RequestField{"prompt_logprobs", "with --json: of each token of the prompt and of that many best"},
    RequestField{"return_token_ids", "with --json: the ids of prompt and answer", true},
    RequestField{"skip_special_tokens", "true or false: special tokens show nothing (default: true)"},
    RequestField{"add_special_tokens", "true or false: BOS in front of the prompt (default: true)"},
    RequestField{"parse_special_tokens", "true or false: </s> in the prompt becomes its id (default: true)"},
    RequestField{"truncate_prompt_tokens", "keep only the last so many tokens of a prompt"},
    RequestField{"user", "for the usage log and for fair shares"},
    RequestField{"priority", "among the requests of one user, lower goes first (default: 0)"},
    RequestField{"cache_salt", "cached prompts are shared only with requests of the same salt"},
    RequestField{"batch", "work that can wait", true},
};

template <typename T>
bool Parse(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::span<const RequestField> RequestFields() { return kFields; }

absl::Status SetField(std::string_view name, const std::string& text, v1::CompletionRequest& request) {
  const FieldDescriptor* field = v1::CompletionRequest::descriptor()->FindFieldByName(std::string(name));
  const google::protobuf::Reflection& fields = *request.GetReflection();
  const auto refuse = [&](std::string_view kind) {
    return absl::InvalidArgumentError(fmt::format("{} is '{}', but must be {}", name, text, kind));
  };
  int32_t int32 = 0;
  int64_t int64 = 0;
  float real = 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return refuse("true or false");
      fields.SetBool(&request, field, text == "true");
      break;
    case FieldDescriptor::CPPTYPE_INT32:
      if (!Parse(text, int32)) return refuse("a whole number");
      if (field->is_repeated()) {
        fields.AddInt32(&request, field, int32);
      } else {
        fields.SetInt32(&request, field, int32);
      }
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      if (!Parse(text, int64)) return refuse("a whole number");
      fields.SetInt64(&request, field, int64);
      break;
    case FieldDescriptor::CPPTYPE_FLOAT:
      if (!Parse(text, real)) return refuse("a number");
      fields.SetFloat(&request, field, real);
      break;
    default:
      if (field->is_repeated()) {
        fields.AddString(&request, field, text);
      } else {
        fields.SetString(&request, field, text);
      }
  }
  return absl::OkStatus();
}

}  // namespace optserve::cli
