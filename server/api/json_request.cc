#include "server/api/json_request.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/api/error_codec.h"
#include "server/api/json_reader.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

using Kind = JsonReader::Kind;
using Request = CompletionRequest;

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return "a boolean";
    case Kind::kNumber:
      return "a number";
    case Kind::kString:
      return "a string";
    case Kind::kArray:
      return "a list";
    case Kind::kObject:
      return "an object";
    case Kind::kNone:
      break;
  }
  return "nothing";
}

absl::Status Bad(std::string_view param, std::string message) {
  return WithParam(absl::InvalidArgumentError(message), param);
}

// A client's text in an error message: not more than a line of it.
std::string_view Shorten(std::string_view text) {
  constexpr size_t kMaxBytes = 64;
  return Utf8Prefix(text, kMaxBytes);
}

// Reads the values of fields: the reader's errors get the field's path, wrong types are named.
class FieldReader {
 public:
  explicit FieldReader(JsonReader& json) : json_(json) {}

  JsonReader& json() { return json_; }

  // The reader's error, blamed on `param` if it is inside of a value.
  absl::Status Error(std::string_view param) const {
    return json_.is_value_error() ? WithParam(json_.status(), param) : json_.status();
  }

  // Unless the next value is of that kind.
  absl::Status Expect(Kind wanted, std::string_view param, std::string_view wanted_words) {
    const Kind kind = json_.Peek();
    if (kind == wanted) return absl::OkStatus();
    if (kind == Kind::kNone) {
      json_.ReadNull();  // makes the error
      return Error(param);
    }
    return Bad(param, fmt::format("{} must be {}, not {}", param, wanted_words, KindName(kind)));
  }

  absl::Status Bool(std::string_view param, bool& value) {
    OPTSERVE_RETURN_IF_ERROR(Expect(Kind::kBool, param, "true or false"));
    return json_.ReadBool(value) ? absl::OkStatus() : Error(param);
  }

  absl::Status String(std::string_view param, std::string& value) {
    OPTSERVE_RETURN_IF_ERROR(Expect(Kind::kString, param, "a string"));
    return json_.ReadString(value) ? absl::OkStatus() : Error(param);
  }

  absl::Status Number(std::string_view param, JsonNumber& value) {
    OPTSERVE_RETURN_IF_ERROR(Expect(Kind::kNumber, param, "a number"));
    return json_.ReadNumber(value) ? absl::OkStatus() : Error(param);
  }

  absl::Status Integer(std::string_view param, int64_t& value) {
    OPTSERVE_RETURN_IF_ERROR(Expect(Kind::kNumber, param, "an integer"));
    JsonNumber number;
    if (!json_.ReadNumber(number)) return Error(param);
    if (!number.integer) return Bad(param, fmt::format("{} is {}, but must be a 64-bit integer", param, number.value));
    value = *number.integer;
    return absl::OkStatus();
  }

  // Appends a list of ids.
  absl::Status Ids(std::string_view param, std::vector<int32_t>& ids) {
    constexpr FieldBounds kIdBounds = {.min = 0, .max = std::numeric_limits<int32_t>::max()};
    OPTSERVE_RETURN_IF_ERROR(Expect(Kind::kArray, param, "a list of token ids"));
    if (!json_.EnterArray()) return Error(param);
    JsonNumber number;
    while (json_.NextElement()) {
      const bool is_number = json_.Peek() == Kind::kNumber;
      if (is_number && json_.ReadNumber(number) && number.integer && *number.integer >= 0 &&
          *number.integer <= std::numeric_limits<int32_t>::max()) {
        ids.push_back(static_cast<int32_t>(*number.integer));
        continue;
      }
      const std::string element = fmt::format("{}[{}]", param, ids.size());
      if (!is_number) return Expect(Kind::kNumber, element, "a token id");
      if (!json_.ok()) return Error(element);
      if (!number.integer) return Bad(element, fmt::format("{} is {}, not a token id", element, number.value));
      return CheckFieldNumber(kIdBounds, element, number.value);
    }
    return json_.ok() ? absl::OkStatus() : Error(param);
  }

 private:
  JsonReader& json_;
};

// Reads a whole body: one object, no key twice. `read` reads the value of a field it knows, or answers false; null is
// not shown to it, because it means the default.
absl::Status ReadFields(std::string_view body, const JsonDecodeOptions& options,
                        std::vector<std::string>* ignored_fields,
                        const std::function<absl::StatusOr<bool>(std::string_view, FieldReader&)>& read) {
  constexpr size_t kMaxFields = 1024;
  JsonReader json(body);
  FieldReader reader(json);
  const Kind kind = json.Peek();
  if (kind != Kind::kObject && kind != Kind::kNone) {
    return InvalidArgument("the body must be a JSON object, not {}", KindName(kind));
  }
  json.EnterObject();  // or makes the error
  std::unordered_set<std::string> seen;
  std::string name;
  while (json.NextKey(name)) {
    const std::string param(Shorten(name));
    if (!seen.insert(name).second) {
      return Bad(param, fmt::format("{} is there twice, at byte {}", param, json.position()));
    }
    if (seen.size() > kMaxFields) return InvalidArgument("the body has more than {} fields", kMaxFields);
    OPTSERVE_ASSIGN_OR_RETURN(const bool is_known, read(name, reader));
    if (is_known) continue;
    if (!options.ignore_unknown_fields) return Bad(param, fmt::format("there is no field {}", param));
    if (ignored_fields != nullptr) ignored_fields->push_back(param);
    if (!json.Skip()) return reader.Error(param);
  }
  return json.Finish() ? absl::OkStatus() : json.status();
}

// Reads the value of one field of a completion request; the overloads are FieldTarget's alternatives.
struct FieldDecoder {
  const CompletionField& field;
  const RequestLimits& limits;
  FieldReader& reader;
  Request& request;

  absl::Status operator()(bool Request::*member) const { return reader.Bool(field.name, request.*member); }

  absl::Status operator()(int32_t Request::*member) const { return Int32(request.*member); }

  absl::Status operator()(float Request::*member) const {
    JsonNumber number;
    OPTSERVE_RETURN_IF_ERROR(reader.Number(field.name, number));
    OPTSERVE_RETURN_IF_ERROR(CheckFieldFloat(field.bounds, field.name, number.value));
    request.*member = static_cast<float>(number.value);
    return absl::OkStatus();
  }

  absl::Status operator()(std::string Request::*member) const { return reader.String(field.name, request.*member); }

  absl::Status operator()(std::optional<int32_t> Request::*member) const { return Int32((request.*member).emplace()); }

  absl::Status operator()(std::optional<int64_t> Request::*member) const {
    return reader.Integer(field.name, (request.*member).emplace());
  }

  absl::Status operator()(std::optional<double> Request::*member) const {
    return Bounded(field.name, (request.*member).emplace());
  }

  absl::Status operator()(std::vector<int32_t> Request::*member) const {
    return reader.Ids(field.name, request.*member);
  }

  absl::Status operator()(PromptField) const;
  absl::Status operator()(StopField) const;
  absl::Status operator()(LogitBiasField) const;
  absl::Status operator()(StreamOptionsField) const;

  absl::Status operator()(MetadataField) const {
    OPTSERVE_RETURN_IF_ERROR(reader.Expect(Kind::kObject, field.name, "an object"));
    return reader.json().Skip() ? absl::OkStatus() : reader.Error(field.name);
  }

  absl::Status operator()(UnsupportedField) const {
    return Bad(field.name, fmt::format("{} must be null: {}", field.name, field.description));
  }

 private:
  absl::Status Int32(int32_t& value) const {
    int64_t wide = 0;
    OPTSERVE_RETURN_IF_ERROR(reader.Integer(field.name, wide));
    OPTSERVE_RETURN_IF_ERROR(CheckFieldNumber(field.bounds, field.name, static_cast<double>(wide)));
    value = static_cast<int32_t>(wide);
    return absl::OkStatus();
  }

  absl::Status Bounded(std::string_view param, double& value) const {
    JsonNumber number;
    OPTSERVE_RETURN_IF_ERROR(reader.Number(param, number));
    value = number.value;
    return CheckFieldNumber(field.bounds, param, value);
  }

  absl::Status Text(std::string_view param, std::string& text) const;
};

absl::Status FieldDecoder::Text(std::string_view param, std::string& text) const {
  const size_t body_size = reader.json().size();
  if (body_size > limits.text_body_bytes) {
    return WithErrorCode(
        Bad(param, fmt::format("the body has {} bytes, the limit with prompts of text is {}; only prompts of token ids "
                               "may be longer",
                               body_size, limits.text_body_bytes)),
        kRequestTooLarge);
  }
  return reader.String(param, text);
}

absl::Status FieldDecoder::operator()(PromptField) const {
  JsonReader& json = reader.json();
  if (json.Peek() == Kind::kString) {
    return Text(field.name, std::get<std::string>(request.prompts.emplace_back(std::string())));
  }
  OPTSERVE_RETURN_IF_ERROR(reader.Expect(Kind::kArray, field.name,
                                         "a string, a list of strings, a list of token ids or a list of such lists"));
  // What the first element is decides; a list of ids is read as one from its '['.
  JsonReader ahead = json;
  ahead.EnterArray();
  if (!ahead.NextElement()) {
    json.EnterArray();
    json.NextElement();
    return json.ok() ? absl::OkStatus() : reader.Error(field.name);
  }
  const Kind kind = ahead.Peek();
  if (kind == Kind::kNumber) {
    return reader.Ids(field.name, std::get<std::vector<int32_t>>(request.prompts.emplace_back(std::vector<int32_t>())));
  }
  request.prompt_is_list = true;
  json.EnterArray();
  while (json.NextElement()) {
    const std::string param = PromptPath(request, request.prompts.size());
    if (request.prompts.size() == static_cast<size_t>(limits.max_choices)) {
      return Bad(field.name, fmt::format("{} has more than {} entries", field.name, limits.max_choices));
    }
    if (kind == Kind::kArray) {
      auto& ids = std::get<std::vector<int32_t>>(request.prompts.emplace_back(std::vector<int32_t>()));
      OPTSERVE_RETURN_IF_ERROR(reader.Ids(param, ids));
    } else {
      OPTSERVE_RETURN_IF_ERROR(reader.Expect(Kind::kString, param, "a string or token ids"));
      OPTSERVE_RETURN_IF_ERROR(Text(param, std::get<std::string>(request.prompts.emplace_back(std::string()))));
    }
  }
  return json.ok() ? absl::OkStatus() : reader.Error(field.name);
}

absl::Status FieldDecoder::operator()(StopField) const {
  JsonReader& json = reader.json();
  if (json.Peek() == Kind::kString) {
    OPTSERVE_RETURN_IF_ERROR(reader.String(field.name, request.stop.emplace_back()));
    if (!request.stop[0].empty()) return absl::OkStatus();
    return Bad(field.name, "stop is the empty string; it would stop at once");
  }
  OPTSERVE_RETURN_IF_ERROR(reader.Expect(Kind::kArray, field.name, "a string or a list of strings"));
  if (!json.EnterArray()) return reader.Error(field.name);
  while (json.NextElement()) {
    OPTSERVE_RETURN_IF_ERROR(CheckFieldSize(field, request.stop.size() + 1));
    const std::string param = fmt::format("{}[{}]", field.name, request.stop.size());
    OPTSERVE_RETURN_IF_ERROR(reader.String(param, request.stop.emplace_back()));
  }
  return json.ok() ? absl::OkStatus() : reader.Error(field.name);
}

absl::Status FieldDecoder::operator()(LogitBiasField) const {
  JsonReader& json = reader.json();
  OPTSERVE_RETURN_IF_ERROR(reader.Expect(Kind::kObject, field.name, "an object of token ids to numbers"));
  if (!json.EnterObject()) return reader.Error(field.name);
  std::unordered_set<int32_t> seen;
  std::string key;
  while (json.NextKey(key)) {
    OPTSERVE_RETURN_IF_ERROR(CheckFieldSize(field, seen.size() + 1));
    const std::string param = fmt::format("{}.{}", field.name, Shorten(key));
    int32_t id = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool is_canonical = key == "0" || (!key.starts_with('0') && !key.starts_with('-'));
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || !is_canonical) {
      return Bad(param, fmt::format("{}: the key is not a token id", param));
    }
    if (!seen.insert(id).second) return Bad(param, fmt::format("{} is there twice", param));
    double bias = 0;
    OPTSERVE_RETURN_IF_ERROR(Bounded(param, bias));
    request.logit_bias.emplace_back(id, static_cast<float>(bias));
  }
  return json.ok() ? absl::OkStatus() : reader.Error(field.name);
}

absl::Status FieldDecoder::operator()(StreamOptionsField) const {
  JsonReader& json = reader.json();
  OPTSERVE_RETURN_IF_ERROR(reader.Expect(Kind::kObject, field.name, "an object"));
  if (!json.EnterObject()) return reader.Error(field.name);
  request.has_stream_options = true;
  std::unordered_set<std::string> seen;
  std::string key;
  while (json.NextKey(key)) {
    const std::string param = fmt::format("{}.{}", field.name, Shorten(key));
    const auto options = StreamOptionFields();
    const auto option = std::ranges::find(options, key, [](const auto& entry) { return entry.first; });
    if (option == options.end()) return Bad(param, fmt::format("there is no field {}", param));
    if (!seen.insert(key).second) return Bad(param, fmt::format("{} is there twice", param));
    if (json.Peek() == Kind::kNull) {
      if (!json.ReadNull()) return reader.Error(param);
    } else {
      OPTSERVE_RETURN_IF_ERROR(reader.Bool(param, request.*(option->second)));
    }
  }
  return json.ok() ? absl::OkStatus() : reader.Error(field.name);
}

// Reads the null that comes next, if one does: the field keeps its default.
absl::StatusOr<bool> SkipNull(std::string_view param, FieldReader& reader) {
  if (reader.json().Peek() != Kind::kNull) return false;
  if (!reader.json().ReadNull()) return reader.Error(param);
  return true;
}

}  // namespace

absl::StatusOr<CompletionRequest> DecodeCompletionRequest(std::string_view body, const JsonDecodeOptions& options,
                                                          std::vector<std::string>* ignored_fields) {
  CompletionRequest request;
  const auto read = [&](std::string_view name, FieldReader& reader) -> absl::StatusOr<bool> {
    const CompletionField* field = FindCompletionField(name);
    if (field == nullptr) return false;
    OPTSERVE_ASSIGN_OR_RETURN(const bool is_null, SkipNull(name, reader));
    if (is_null) return true;
    const FieldDecoder decoder{.field = *field, .limits = options.limits, .reader = reader, .request = request};
    OPTSERVE_RETURN_IF_ERROR(std::visit(decoder, field->target));
    return true;
  };
  OPTSERVE_RETURN_IF_ERROR(ReadFields(body, options, ignored_fields, read));
  OPTSERVE_RETURN_IF_ERROR(ValidateCompletionRequest(options.limits, request));
  return request;
}

absl::StatusOr<TokenizeRequest> DecodeTokenizeRequest(std::string_view body, const JsonDecodeOptions& options) {
  TokenizeRequest request;
  bool has_prompt = false;
  const auto read = [&](std::string_view name, FieldReader& reader) -> absl::StatusOr<bool> {
    constexpr std::string_view kNames[] = {"prompt", "add_special_tokens", "parse_special_tokens", "model"};
    if (std::ranges::find(kNames, name) == std::end(kNames)) return false;
    OPTSERVE_ASSIGN_OR_RETURN(const bool is_null, SkipNull(name, reader));
    if (is_null) return true;
    if (name == "prompt") has_prompt = true;
    if (name == "prompt") OPTSERVE_RETURN_IF_ERROR(reader.String(name, request.prompt));
    if (name == "model") OPTSERVE_RETURN_IF_ERROR(reader.String(name, request.model));
    if (name == "add_special_tokens") OPTSERVE_RETURN_IF_ERROR(reader.Bool(name, request.add_special_tokens));
    if (name == "parse_special_tokens") OPTSERVE_RETURN_IF_ERROR(reader.Bool(name, request.parse_special_tokens));
    return true;
  };
  OPTSERVE_RETURN_IF_ERROR(ReadFields(body, options, nullptr, read));
  if (!has_prompt) return Bad("prompt", "prompt is required: a string");
  return request;
}

absl::StatusOr<DetokenizeRequest> DecodeDetokenizeRequest(std::string_view body, const JsonDecodeOptions& options) {
  DetokenizeRequest request;
  bool has_tokens = false;
  const auto read = [&](std::string_view name, FieldReader& reader) -> absl::StatusOr<bool> {
    if (name != "tokens" && name != "model") return false;
    OPTSERVE_ASSIGN_OR_RETURN(const bool is_null, SkipNull(name, reader));
    if (is_null) return true;
    if (name == "model") {
      OPTSERVE_RETURN_IF_ERROR(reader.String(name, request.model));
    } else {
      has_tokens = true;
      OPTSERVE_RETURN_IF_ERROR(reader.Ids(name, request.tokens));
    }
    return true;
  };
  OPTSERVE_RETURN_IF_ERROR(ReadFields(body, options, nullptr, read));
  if (!has_tokens) return Bad("tokens", "tokens is required: a list of token ids");
  return request;
}

}  // namespace optserve
