#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// Reads the pickles of torch.save as data. Python would execute a pickle, which can call any function; here a name of a
// class or function stays a name, a call stays a record of its arguments, and nothing is ever looked up or run.

namespace optserve {

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,        // `number`
  kFloat,      // not kept: nothing that we read is one
  kString,     // `text`; also for whole numbers of more than 64 bits, as their bytes
  kTuple,      // `items`
  kList,       // `items`
  kSet,        // not kept
  kDict,       // `items`: key, value, key, value, ... in the order of the pickle
  kGlobal,     // `text` is the module, `name` the class or function
  kReference,  // an object outside the pickle: items[0] says which (torch: a storage)
  kCall,       // items[0] is what is called, items[1] the arguments; never executed
};

// A value's place in its pickle. Values refer to each other by it, may be shared, and may form cycles.
using PickleId = int32_t;

struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  int64_t number = 0;
  std::string_view text;  // of the pickle's bytes
  std::string_view name;
  std::vector<PickleId> items;
};

class Pickle {
 public:
  const PickleValue& at(PickleId id) const { return values_[id]; }
  PickleId size() const { return static_cast<PickleId>(values_.size()); }
  PickleId root() const { return root_; }
  size_t num_bytes() const { return num_bytes_; }  // up to and including its end mark

  // The value of a key that is a string; nullptr if `dict` is none, or has no such key.
  const PickleValue* Find(const PickleValue& dict, std::string_view key) const;

  bool IsGlobal(PickleId id, std::string_view module, std::string_view name) const {
    const PickleValue& value = at(id);
    return value.kind == PickleKind::kGlobal && value.text == module && value.name == name;
  }

  // The first class or function that a file of tensors does not need, as "module.name"; empty if there is none. A
  // model's file with one of these was made by something other than torch.save of tensors.
  const std::string& foreign_global() const { return foreign_global_; }

 private:
  friend class PickleParser;
  std::vector<PickleValue> values_;
  PickleId root_ = 0;
  size_t num_bytes_ = 0;
  std::string foreign_global_;
};

// Parses one pickle of protocol 2 from the start of `bytes`, which may go on behind it and must outlive the result.
// Only the opcodes that torch's own weights_only reader knows. Time and memory are bounded by the pickle's length, and
// that is bounded: no recursion, no value is ever copied.
//
// InvalidArgument says what is wrong and at which byte.
// Source  CPython, Lib/pickletools.py; pytorch, torch/_weights_only_unpickler.py.
absl::StatusOr<Pickle> ParsePickle(std::span<const std::byte> bytes);

}  // namespace optserve
