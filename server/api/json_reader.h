#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace optserve {

// A JSON number. Numbers that a double cannot hold are errors of the reader, not values.
struct JsonNumber {
  double value = 0.0;
  std::optional<int64_t> integer;  // when it is one and fits; 5, 5.0 and 50e-1 are the same
};

// Reads one JSON text from front to back, value by value, into whatever the caller has for it: no document in between,
// no recursion, no allocation but the strings it returns.
//
// Strict as RFC 8259: no BOM, no comments, no trailing comma, no NaN; well-formed UTF-8, escapes included (a lone
// surrogate is an error); at most kMaxDepth levels. Objects that it skips may not have a key twice; objects that the
// caller reads are the caller's duty.
//
// Errors are sticky: after one every call returns false and `status` tells, with the byte's position. A caller can
// therefore read on and look once.
//
//   if (reader.EnterObject()) while (reader.NextKey(key)) reader.ReadString(value);
//   if (!reader.Finish()) return reader.status();
class JsonReader {
 public:
  static constexpr int kMaxDepth = 32;

  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject, kNone };

  // `text` must outlive the reader.
  explicit JsonReader(std::string_view text) : text_(text) {}

  // The kind of the value that comes next, by its first byte; kNone when none can start here.
  Kind Peek();

  // '{', when that comes next; then NextKey is true for each member, whose value must be read, and false at the '}'.
  bool EnterObject();
  bool NextKey(std::string& key);

  // '[', when that comes next; then NextElement is true for each element, which must be read, and false at the ']'.
  bool EnterArray();
  bool NextElement();

  // The next value, which must be of that kind: look with Peek.
  bool ReadNull();
  bool ReadBool(bool& value);
  bool ReadNumber(JsonNumber& number);
  bool ReadString(std::string& value);

  // Any value, checked like the others.
  bool Skip();

  // True when nothing but white space is left.
  bool Finish();

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

  // Whether the error is inside of a member's value (a number out of range, a lone surrogate, NaN) and not in the
  // structure around it: then the field that holds the value is to blame.
  bool is_value_error() const { return is_value_error_; }

  // Bytes read so far.
  size_t position() const { return pos_; }
  size_t size() const { return text_.size(); }  // bytes in all

 private:
  void SkipSpace();
  bool Enter(char open);
  bool Next(char close);
  bool ReadWord(std::string_view word);
  bool AppendEscape(std::string& value);
  bool ReadHex4(uint32_t& unit);
  bool SkipScalar();

  bool Fail(size_t position, std::string_view what);  // in the structure
  bool FailInValue(size_t position, std::string_view what);
  bool FailLimit(std::string_view what);  // it may be JSON, but not for us
  bool FailAtValue();                     // where a value should be

  std::string_view text_;
  size_t pos_ = 0;
  int depth_ = 0;
  std::bitset<kMaxDepth + 1> has_members_;  // per level: whether a comma must come before the next member
  absl::Status status_;
  bool is_value_error_ = false;
};

}  // namespace optserve
