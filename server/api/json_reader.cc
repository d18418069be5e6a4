#include "server/api/json_reader.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_set>
#include <vector>

#include "engine/util/status.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

// Skipped objects are kept track of only up to here, so that a hostile body cannot make us hold a table of its keys.
constexpr size_t kMaxSkippedKeys = 1024;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// How a number is spelled: the parts of RFC 8259's grammar.
struct NumberToken {
  size_t num_bytes = 0;  // 0: not a number
  bool is_plain_integer = false;
};

NumberToken ScanNumber(std::string_view text) {
  size_t pos = 0;
  const auto digits = [&] {
    const size_t begin = pos;
    while (pos < text.size() && IsDigit(text[pos])) ++pos;
    return pos - begin;
  };
  if (pos < text.size() && text[pos] == '-') ++pos;
  const bool leads_with_zero = pos < text.size() && text[pos] == '0';
  const size_t num_integer_digits = digits();
  if (num_integer_digits == 0 || (leads_with_zero && num_integer_digits > 1)) return {};
  bool is_plain_integer = true;
  if (pos < text.size() && text[pos] == '.') {
    is_plain_integer = false;
    ++pos;
    if (digits() == 0) return {};
  }
  if (pos < text.size() && (text[pos] == 'e' || text[pos] == 'E')) {
    is_plain_integer = false;
    ++pos;
    if (pos < text.size() && (text[pos] == '+' || text[pos] == '-')) ++pos;
    if (digits() == 0) return {};
  }
  constexpr std::string_view kEnds = ",]} \n\r\t";
  if (pos < text.size() && kEnds.find(text[pos]) == std::string_view::npos) return {};  // 0x1, 1.2.3
  return {.num_bytes = pos, .is_plain_integer = is_plain_integer};
}

std::optional<int64_t> ExactInteger(double value) {
  constexpr double kLimit = 9007199254740992.0;  // 2^53: up to here doubles hold every integer
  if (std::trunc(value) != value || std::abs(value) > kLimit) return std::nullopt;
  return static_cast<int64_t>(value);
}

void AppendUtf8(std::string& text, uint32_t code_point) {
  const auto byte = [&](uint32_t value) { text += static_cast<char>(value); };
  if (code_point < 0x80) {
    byte(code_point);
  } else if (code_point < 0x800) {
    byte(0xC0 | (code_point >> 6));
    byte(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    byte(0xE0 | (code_point >> 12));
    byte(0x80 | ((code_point >> 6) & 0x3F));
    byte(0x80 | (code_point & 0x3F));
  } else {
    byte(0xF0 | (code_point >> 18));
    byte(0x80 | ((code_point >> 12) & 0x3F));
    byte(0x80 | ((code_point >> 6) & 0x3F));
    byte(0x80 | (code_point & 0x3F));
  }
}

}  // namespace

void JsonReader::SkipSpace() {
  while (pos_ < text_.size()) {
    const char c = text_[pos_];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
    ++pos_;
  }
}

JsonReader::Kind JsonReader::Peek() {
  if (!ok()) return Kind::kNone;
  SkipSpace();
  if (pos_ == text_.size()) return Kind::kNone;
  switch (text_[pos_]) {
    case '{':
      return Kind::kObject;
    case '[':
      return Kind::kArray;
    case '"':
      return Kind::kString;
    case 't':
    case 'f':
      return Kind::kBool;
    case 'n':
      return Kind::kNull;
    default:
      return IsDigit(text_[pos_]) || text_[pos_] == '-' ? Kind::kNumber : Kind::kNone;
  }
}

bool JsonReader::Enter(char open) {
  if (!ok()) return false;
  SkipSpace();
  if (pos_ == text_.size() || text_[pos_] != open) return FailAtValue();
  if (depth_ == kMaxDepth) return FailLimit(fmt::format("more than {} levels", kMaxDepth));
  ++pos_;
  ++depth_;
  has_members_[depth_] = false;
  return true;
}

bool JsonReader::EnterObject() { return Enter('{'); }
bool JsonReader::EnterArray() { return Enter('['); }

// To the next member of the innermost object or array, over its comma; false at its end and on errors.
bool JsonReader::Next(char close) {
  if (!ok()) return false;
  SkipSpace();
  if (pos_ == text_.size()) return Fail(pos_, "the text ends too early");
  if (text_[pos_] == close) {
    ++pos_;
    --depth_;
    return false;
  }
  if (has_members_[depth_]) {
    if (text_[pos_] != ',') return Fail(pos_, fmt::format("expected ',' or '{}'", close));
    ++pos_;
    SkipSpace();
  }
  has_members_[depth_] = true;
  return true;
}

bool JsonReader::NextElement() { return Next(']'); }

bool JsonReader::NextKey(std::string& key) {
  if (!Next('}')) return false;
  if (pos_ == text_.size()) return Fail(pos_, "the text ends too early");
  if (text_[pos_] != '"') return Fail(pos_, "expected a key in quotes");
  if (!ReadString(key)) {
    is_value_error_ = false;  // the key is no field yet
    return false;
  }
  SkipSpace();
  if (pos_ == text_.size()) return Fail(pos_, "the text ends too early");
  if (text_[pos_] != ':') return Fail(pos_, "expected ':'");
  ++pos_;
  return true;
}

bool JsonReader::ReadWord(std::string_view word) {
  if (!text_.substr(pos_).starts_with(word)) return FailAtValue();
  pos_ += word.size();
  return true;
}

bool JsonReader::ReadNull() { return Peek() == Kind::kNull ? ReadWord("null") : FailAtValue(); }

bool JsonReader::ReadBool(bool& value) {
  if (Peek() != Kind::kBool) return FailAtValue();
  value = text_[pos_] == 't';
  return ReadWord(value ? "true" : "false");
}

bool JsonReader::ReadNumber(JsonNumber& number) {
  if (Peek() != Kind::kNumber) return FailAtValue();
  const NumberToken token = ScanNumber(text_.substr(pos_));
  if (token.num_bytes == 0) return FailAtValue();
  const std::string_view digits = text_.substr(pos_, token.num_bytes);
  const char* end = digits.data() + digits.size();
  int64_t integer = 0;
  if (token.is_plain_integer && std::from_chars(digits.data(), end, integer).ec == std::errc()) {
    number = {.value = static_cast<double>(integer), .integer = integer};
  } else {
    double value = 0;
    if (std::from_chars(digits.data(), end, value).ec != std::errc()) {
      value = std::strtod(std::string(digits).c_str(), nullptr);  // which tells too large from too small
      if (std::isinf(value)) return FailInValue(pos_, "the number is too large");
    }
    number = {.value = value, .integer = token.is_plain_integer ? std::nullopt : ExactInteger(value)};
  }
  pos_ += token.num_bytes;
  return true;
}

bool JsonReader::ReadString(std::string& value) {
  if (Peek() != Kind::kString) return FailAtValue();
  value.clear();
  size_t begin = ++pos_;  // of what is not yet in `value`
  while (pos_ < text_.size()) {
    const auto byte = static_cast<uint8_t>(text_[pos_]);
    if (byte == '"') {
      value += text_.substr(begin, pos_ - begin);
      ++pos_;
      return true;
    }
    if (byte == '\\') {
      value += text_.substr(begin, pos_ - begin);
      if (!AppendEscape(value)) return false;
      begin = pos_;
    } else if (byte < 0x20) {
      return FailInValue(pos_, fmt::format("the control character 0x{:02x} in a string must be escaped", byte));
    } else if (byte < 0x80) {
      ++pos_;
    } else {
      const Utf8Unit unit = NextUtf8Unit(text_.substr(pos_));
      if (unit.kind != Utf8Unit::Kind::kCharacter) return FailInValue(pos_, "not UTF-8");
      pos_ += unit.num_bytes;
    }
  }
  return Fail(pos_, "the text ends inside a string");
}

bool JsonReader::ReadHex4(uint32_t& unit) {
  if (text_.size() - pos_ < 4) return Fail(text_.size(), "the text ends inside a string");
  const char* begin = text_.data() + pos_;
  unit = 0;
  const auto result = std::from_chars(begin, begin + 4, unit, 16);
  if (result.ec != std::errc() || result.ptr != begin + 4) return FailInValue(pos_, "\\u needs four hex digits");
  pos_ += 4;
  return true;
}

bool JsonReader::AppendEscape(std::string& value) {
  const size_t begin = pos_;
  if (text_.size() - pos_ < 2) return Fail(text_.size(), "the text ends inside a string");
  const char kind = text_[pos_ + 1];
  pos_ += 2;
  constexpr std::string_view kLetters = "\"\\/bfnrt";
  constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
  if (const size_t letter = kLetters.find(kind); letter != std::string_view::npos) {
    value += kMeanings[letter];
    return true;
  }
  if (kind != 'u') return FailInValue(begin, "unknown escape");
  uint32_t code_point = 0;
  if (!ReadHex4(code_point)) return false;
  if (code_point >= 0xDC00 && code_point < 0xE000) return FailInValue(begin, "a lone surrogate");
  if (code_point >= 0xD800 && code_point < 0xDC00) {
    uint32_t low = 0;
    if (!text_.substr(pos_).starts_with("\\u")) return FailInValue(begin, "a lone surrogate");
    pos_ += 2;
    if (!ReadHex4(low)) return false;
    if (low < 0xDC00 || low >= 0xE000) return FailInValue(begin, "a lone surrogate");
    code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
  }
  AppendUtf8(value, code_point);
  return true;
}

bool JsonReader::SkipScalar() {
  bool ignored_bool = false;
  JsonNumber ignored_number;
  std::string ignored_string;
  switch (Peek()) {
    case Kind::kNull:
      return ReadNull();
    case Kind::kBool:
      return ReadBool(ignored_bool);
    case Kind::kNumber:
      return ReadNumber(ignored_number);
    case Kind::kString:
      return ReadString(ignored_string);
    default:
      return FailAtValue();
  }
}

bool JsonReader::Skip() {
  struct Level {
    bool is_object = false;
    std::unordered_set<std::string> keys;
  };
  std::vector<Level> levels;
  std::string key;
  do {
    if (!levels.empty()) {  // to the next member
      Level& level = levels.back();
      const bool has_next = level.is_object ? NextKey(key) : NextElement();
      if (!ok()) return false;
      if (!has_next) {
        levels.pop_back();
        continue;
      }
      if (level.is_object) {
        if (!level.keys.insert(key).second) return FailInValue(pos_, "a key is there twice");
        if (level.keys.size() > kMaxSkippedKeys) {
          is_value_error_ = depth_ > 0;
          return FailLimit(fmt::format("an object with more than {} keys", kMaxSkippedKeys));
        }
      }
    }
    const Kind kind = Peek();
    if (kind == Kind::kObject || kind == Kind::kArray) {
      if (!(kind == Kind::kObject ? EnterObject() : EnterArray())) return false;
      levels.push_back({.is_object = kind == Kind::kObject});
    } else if (!SkipScalar()) {
      return false;
    }
  } while (!levels.empty());
  return true;
}

bool JsonReader::Finish() {
  if (!ok()) return false;
  SkipSpace();
  if (pos_ < text_.size()) return Fail(pos_, "more text behind the end");
  return true;
}

bool JsonReader::Fail(size_t position, std::string_view what) {
  if (ok()) status_ = InvalidArgument("the body is not valid JSON: {} at byte {}", what, position);
  return false;
}

bool JsonReader::FailLimit(std::string_view what) {
  if (ok()) status_ = InvalidArgument("the body has {} at byte {}", what, pos_);
  return false;
}

bool JsonReader::FailInValue(size_t position, std::string_view what) {
  is_value_error_ = is_value_error_ || (ok() && depth_ > 0);
  return Fail(position, what);
}

bool JsonReader::FailAtValue() {
  if (!ok()) return false;
  SkipSpace();
  const std::string_view rest = text_.substr(pos_);
  if (rest.empty()) return Fail(pos_, "the text ends too early");
  if (pos_ == 0 && rest.starts_with("\xEF\xBB\xBF")) return Fail(0, "a byte order mark, which must not be there,");
  const bool is_utf16 = rest.starts_with("\xFF\xFE") || rest.starts_with("\xFE\xFF");
  if (pos_ == 0 && is_utf16) return Fail(0, "it seems to be UTF-16, but must be UTF-8,");
  if (rest[0] == '\0') return Fail(pos_, "a zero byte");
  for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
    if (rest.starts_with(word)) return FailInValue(pos_, fmt::format("{} is not a JSON number", word));
  }
  return FailInValue(pos_, "expected a value");
}

}  // namespace optserve
