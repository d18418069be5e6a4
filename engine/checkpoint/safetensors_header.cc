#include "engine/checkpoint/safetensors_header.h"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "engine/util/status.h"

namespace optserve {
namespace {

// The states of the header's grammar:  { name: { key: value, ... }, "__metadata__": { key: string, ... } }
enum class Place { kStart, kTop, kEntry, kShape, kOffsets, kMetadata, kEnd };

// Events of the JSON parser to entries. A handler that returns false stops the parser.
class HeaderReader {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  bool null() { return Refuse("null"); }
  bool boolean(bool) { return Refuse("a boolean"); }
  bool number_integer(number_integer_t) { return Refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) { return Refuse("a number that is not whole"); }
  bool binary(binary_t&) { return Refuse("binary data"); }

  bool number_unsigned(number_unsigned_t number) {
    if (place_ == Place::kShape) {
      if (entry_.shape.size() == kMaxRank) return Fail("shape has more than 8 dimensions");
      entry_.shape.push_back(number);
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (num_offsets_ == 2) return Fail("data_offsets has more than two numbers");
      (num_offsets_++ == 0 ? entry_.begin : entry_.end) = number;
      return true;
    }
    return Refuse("a number");
  }

  bool string(string_t& text) {
    if (place_ == Place::kMetadata) return true;
    if (place_ == Place::kEntry && key_ == "dtype") {
      entry_.dtype = std::move(text);
      return true;
    }
    return Refuse("a string");
  }

  bool start_object(std::size_t) {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ == Place::kTop) {
      place_ = entry_.name == "__metadata__" ? Place::kMetadata : Place::kEntry;
      return true;
    }
    return Refuse("an object");
  }

  bool key(string_t& name) {
    if (place_ == Place::kTop) {
      if (!names_.insert(name).second) return FailWith("stands twice", name);
      entry_ = {};
      entry_.name = std::move(name);
      has_shape_ = has_offsets_ = false;
      num_offsets_ = 0;
    } else if (place_ == Place::kEntry) {
      key_ = std::move(name);
      if (key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") return Fail("has an unknown key");
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::kEntry) {
      if (entry_.dtype.empty()) return Fail("has no dtype");
      if (!has_shape_) return Fail("has no shape");
      if (!has_offsets_ || num_offsets_ != 2) return Fail("has no two data_offsets");
      entries_.push_back(std::move(entry_));
    }
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ == Place::kEntry && key_ == "shape" && !has_shape_) {
      place_ = Place::kShape;
      return has_shape_ = true;
    }
    if (place_ == Place::kEntry && key_ == "data_offsets" && !has_offsets_) {
      place_ = Place::kOffsets;
      return has_offsets_ = true;
    }
    return Refuse("a list");
  }

  bool end_array() {
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(std::size_t byte, const std::string&, const nlohmann::json::exception&) {
    status_ = InvalidArgument("the header is not JSON at byte {}", byte);
    return false;
  }

  absl::Status status() const { return status_; }
  std::vector<SafetensorsEntry> TakeEntries() { return std::move(entries_); }

 private:
  static constexpr size_t kMaxRank = 8;

  bool Fail(std::string_view what) { return FailWith(what, entry_.name); }

  bool FailWith(std::string_view what, std::string_view name) {
    status_ = InvalidArgument("tensor {} {}", name, what);
    return false;
  }

  bool Refuse(std::string_view what) {
    if (place_ == Place::kStart) {
      status_ = InvalidArgument("the header is {}, not an object", what);
      return false;
    }
    if (place_ == Place::kMetadata) {
      status_ = InvalidArgument("__metadata__ holds {}, not only strings", what);
      return false;
    }
    if (place_ == Place::kShape) return Fail(std::string("has ") + std::string(what) + " in its shape");
    if (place_ == Place::kOffsets) return Fail(std::string("has ") + std::string(what) + " in its data_offsets");
    if (place_ == Place::kEntry) return Fail(std::string("has ") + std::string(what) + " as its " + key_);
    return Fail(std::string("is ") + std::string(what) + ", not an object");
  }

  Place place_ = Place::kStart;
  SafetensorsEntry entry_;
  std::string key_;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int num_offsets_ = 0;
  std::unordered_set<std::string> names_;
  std::vector<SafetensorsEntry> entries_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view json) {
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) return reader.status();
  return reader.TakeEntries();
}

}  // namespace optserve
