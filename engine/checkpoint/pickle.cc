#include "engine/checkpoint/pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {

namespace {

// OPT-175B's largest pickle has some 100 KB and 20,000 values; these bound what a hostile one can make us hold.
constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr size_t kMaxValues = 300'000;
constexpr size_t kMaxMarks = 1000;
constexpr int32_t kMaxDepth = 1000;  // of tuples within tuples

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kBinFloat = 'G',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kEmptySet = 0x8f,
};

struct GlobalName {
  std::string_view module;
  std::string_view name;
};

// What torch.save writes for tensors and dictionaries of them.
constexpr std::array kTensorGlobals = {
    GlobalName{"collections", "OrderedDict"},
    GlobalName{"torch._utils", "_rebuild_tensor_v2"},
    GlobalName{"torch._utils", "_rebuild_tensor_v3"},
    GlobalName{"torch._utils", "_rebuild_parameter"},
    GlobalName{"torch.nn.parameter", "Parameter"},
    GlobalName{"torch", "Size"},
    GlobalName{"torch", "device"},
    GlobalName{"torch.storage", "UntypedStorage"},
};

bool IsTensorGlobal(std::string_view module, std::string_view name) {
  // torch.HalfStorage and its kin; torch.float16 and its.
  if (module == "torch" && (name.ends_with("Storage") || name.find("float") != std::string_view::npos)) return true;
  return std::any_of(kTensorGlobals.begin(), kTensorGlobals.end(),
                     [&](const GlobalName& known) { return known.module == module && known.name == name; });
}

}  // namespace

// The machine that a pickle is a program for: a stack, marks on it, a memo of values by number.
class PickleParser {
 public:
  explicit PickleParser(std::span<const std::byte> bytes)
      : bytes_(bytes.first(std::min(bytes.size(), kMaxBytes))), cut_(bytes.size() > kMaxBytes) {}

  absl::StatusOr<Pickle> Parse() {
    while (true) {
      opcode_at_ = at_;
      uint8_t opcode = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&opcode));
      if (opcode == kStop) break;
      OPTSERVE_RETURN_IF_ERROR(Step(opcode));
    }
    if (stack_.size() != 1 || !marks_.empty()) return Error("the pickle ends with more than its value");
    pickle_.root_ = stack_.back();
    pickle_.num_bytes_ = at_;
    return std::move(pickle_);
  }

 private:
  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("{}, at byte {} of the pickle", fmt::format(format, std::forward<Args>(args)...),
                           opcode_at_);
  }

  absl::StatusOr<std::string_view> ReadBytes(size_t count) {
    if (count > bytes_.size() - at_) {
      return cut_ ? Error("more than {} bytes", kMaxBytes) : Error("the pickle is cut off");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_, count);
    at_ += count;
    return text;
  }

  template <typename T>
  absl::Status Read(T* value) {
    OPTSERVE_ASSIGN_OR_RETURN(const std::string_view text, ReadBytes(sizeof(T)));
    std::memcpy(value, text.data(), sizeof(T));
    return absl::OkStatus();
  }

  absl::StatusOr<std::string_view> ReadLine() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
    const size_t length = rest.find('\n');
    if (length == std::string_view::npos) return Error("the pickle is cut off");
    at_ += length + 1;
    return rest.substr(0, length);
  }

  absl::Status Push(PickleValue value, int32_t depth = 0) {
    if (pickle_.values_.size() == kMaxValues) return Error("more than {} values", kMaxValues);
    if (depth > kMaxDepth) return Error("nested deeper than {} levels", kMaxDepth);
    stack_.push_back(static_cast<PickleId>(pickle_.values_.size()));
    pickle_.values_.push_back(std::move(value));
    depths_.push_back(depth);
    return absl::OkStatus();
  }
  absl::Status PushNumber(PickleKind kind, int64_t number) { return Push({.kind = kind, .number = number}); }
  absl::Status PushText(std::string_view text) { return Push({.kind = PickleKind::kString, .text = text}); }

  // Values may not be taken from below the last mark.
  absl::StatusOr<PickleId> Pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return Error("nothing on the stack");
    const PickleId id = stack_.back();
    stack_.pop_back();
    return id;
  }

  // What lies above the last mark, which is removed.
  absl::StatusOr<std::vector<PickleId>> PopToMark() {
    if (marks_.empty()) return Error("no mark on the stack");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleId> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }

  absl::StatusOr<PickleId> Top() {
    OPTSERVE_ASSIGN_OR_RETURN(const PickleId top, Pop());
    stack_.push_back(top);
    return top;
  }

  absl::Status Step(uint8_t opcode);
  absl::Status StepNumber(uint8_t opcode);
  absl::Status Memo(uint8_t opcode);

  absl::Status PushTuple(std::vector<PickleId> items) {
    int32_t depth = 0;
    for (const PickleId item : items) depth = std::max(depth, depths_[item] + 1);
    return Push({.kind = PickleKind::kTuple, .items = std::move(items)}, depth);
  }

  absl::Status PushTupleOf(int count) {
    std::vector<PickleId> items(count);
    for (int i = count - 1; i >= 0; --i) {
      OPTSERVE_ASSIGN_OR_RETURN(items[i], Pop());
    }
    return PushTuple(std::move(items));
  }

  absl::Status PushLong() {
    uint8_t length = 0;
    OPTSERVE_RETURN_IF_ERROR(Read(&length));
    OPTSERVE_ASSIGN_OR_RETURN(const std::string_view text, ReadBytes(length));
    if (length > sizeof(int64_t)) return PushText(text);  // torch's magic number; nothing else is that large
    int64_t number = !text.empty() && (text.back() & 0x80) != 0 ? -1 : 0;
    std::memcpy(&number, text.data(), text.size());
    return PushNumber(PickleKind::kInt, number);
  }

  absl::Status PushGlobal() {
    OPTSERVE_ASSIGN_OR_RETURN(const std::string_view module, ReadLine());
    OPTSERVE_ASSIGN_OR_RETURN(const std::string_view name, ReadLine());
    if (pickle_.foreign_global_.empty() && !IsTensorGlobal(module, name)) {
      pickle_.foreign_global_ = Printable(module) + "." + Printable(name);
    }
    return Push({.kind = PickleKind::kGlobal, .text = module, .name = name});
  }

  // A call or a new object: `callee(*arguments)`. The one that is understood is OrderedDict().
  absl::Status PushCall() {
    OPTSERVE_ASSIGN_OR_RETURN(const PickleId arguments, Pop());
    OPTSERVE_ASSIGN_OR_RETURN(const PickleId callee, Pop());
    if (pickle_.at(callee).kind != PickleKind::kGlobal || pickle_.at(arguments).kind != PickleKind::kTuple) {
      return Error("a call of something that is not a function");
    }
    if (pickle_.IsGlobal(callee, "collections", "OrderedDict") && pickle_.at(arguments).items.empty()) {
      return Push({.kind = PickleKind::kDict});
    }
    return Push({.kind = PickleKind::kCall, .items = {callee, arguments}},
                std::max(depths_[callee], depths_[arguments]) + 1);
  }

  // Adds to the container on top. An object of an unknown class may be a container; what it holds is of no use to us.
  absl::Status Extend(PickleKind kind, const std::vector<PickleId>& items) {
    OPTSERVE_ASSIGN_OR_RETURN(const PickleId container, Top());
    PickleValue& value = pickle_.values_[container];
    if (value.kind == PickleKind::kCall) return absl::OkStatus();
    if (value.kind != kind) return Error("items for something that holds none");
    value.items.insert(value.items.end(), items.begin(), items.end());
    return absl::OkStatus();
  }

  // Sets attributes. Of a dictionary (a state_dict's _metadata) and of unknown objects they are of no use to us;
  // everything else has none.
  absl::Status Build() {
    OPTSERVE_RETURN_IF_ERROR(Pop().status());
    OPTSERVE_ASSIGN_OR_RETURN(const PickleId object, Top());
    const PickleKind kind = pickle_.at(object).kind;
    if (kind == PickleKind::kDict || kind == PickleKind::kCall) return absl::OkStatus();
    return Error("attributes for something that has none");
  }

  std::span<const std::byte> bytes_;
  bool cut_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  Pickle pickle_;
  std::vector<int32_t> depths_;  // of each value
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, PickleId> memo_;
};

absl::Status PickleParser::Step(uint8_t opcode) {
  switch (opcode) {
    case kProto: {
      uint8_t version = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&version));
      return version == 2 ? absl::OkStatus() : Error("protocol {}; only 2 can be read", version);
    }
    case kMark:
      if (marks_.size() == kMaxMarks) return Error("nested deeper than {} levels", kMaxMarks);
      marks_.push_back(stack_.size());
      return absl::OkStatus();
    case kGlobal:
      return PushGlobal();
    case kReduce:
    case kNewObj:
      return PushCall();
    case kBuild:
      return Build();
    case kBinPersId: {
      OPTSERVE_ASSIGN_OR_RETURN(const PickleId id, Pop());
      return Push({.kind = PickleKind::kReference, .items = {id}}, depths_[id] + 1);
    }
    case kShortBinString: {
      uint8_t length = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&length));
      OPTSERVE_ASSIGN_OR_RETURN(const std::string_view text, ReadBytes(length));
      return PushText(text);
    }
    case kBinUnicode: {
      uint32_t length = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&length));
      OPTSERVE_ASSIGN_OR_RETURN(const std::string_view text, ReadBytes(length));
      return PushText(text);
    }
    case kEmptyTuple:
      return Push({.kind = PickleKind::kTuple});
    case kEmptyList:
      return Push({.kind = PickleKind::kList});
    case kEmptyDict:
      return Push({.kind = PickleKind::kDict});
    case kEmptySet:
      return Push({.kind = PickleKind::kSet});
    case kTuple: {
      OPTSERVE_ASSIGN_OR_RETURN(std::vector<PickleId> items, PopToMark());
      return PushTuple(std::move(items));
    }
    case kTuple1:
    case kTuple2:
    case kTuple3:
      return PushTupleOf(opcode - kTuple1 + 1);
    case kAppend: {
      OPTSERVE_ASSIGN_OR_RETURN(const PickleId item, Pop());
      return Extend(PickleKind::kList, {item});
    }
    case kAppends: {
      OPTSERVE_ASSIGN_OR_RETURN(const std::vector<PickleId> items, PopToMark());
      return Extend(PickleKind::kList, items);
    }
    case kSetItem: {
      OPTSERVE_ASSIGN_OR_RETURN(const PickleId value, Pop());
      OPTSERVE_ASSIGN_OR_RETURN(const PickleId key, Pop());
      return Extend(PickleKind::kDict, {key, value});
    }
    case kSetItems: {
      OPTSERVE_ASSIGN_OR_RETURN(const std::vector<PickleId> items, PopToMark());
      if (items.size() % 2 != 0) return Error("a key without a value");
      return Extend(PickleKind::kDict, items);
    }
    case kBinPut:
    case kLongBinPut:
    case kBinGet:
    case kLongBinGet:
      return Memo(opcode);
    default:
      return StepNumber(opcode);
  }
}

absl::Status PickleParser::StepNumber(uint8_t opcode) {
  switch (opcode) {
    case kNone:
      return Push({.kind = PickleKind::kNone});
    case kNewTrue:
      return PushNumber(PickleKind::kBool, 1);
    case kNewFalse:
      return PushNumber(PickleKind::kBool, 0);
    case kBinInt: {
      int32_t number = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&number));
      return PushNumber(PickleKind::kInt, number);
    }
    case kBinInt1: {
      uint8_t number = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&number));
      return PushNumber(PickleKind::kInt, number);
    }
    case kBinInt2: {
      uint16_t number = 0;
      OPTSERVE_RETURN_IF_ERROR(Read(&number));
      return PushNumber(PickleKind::kInt, number);
    }
    case kLong1:
      return PushLong();
    case kBinFloat:
      OPTSERVE_RETURN_IF_ERROR(ReadBytes(sizeof(double)).status());
      return Push({.kind = PickleKind::kFloat});
    default:
      return Error("the opcode 0x{:02x}, which files of tensors do not have", opcode);
  }
}

absl::Status PickleParser::Memo(uint8_t opcode) {
  uint32_t number = 0;
  if (opcode == kBinPut || opcode == kBinGet) {
    uint8_t small = 0;
    OPTSERVE_RETURN_IF_ERROR(Read(&small));
    number = small;
  } else {
    OPTSERVE_RETURN_IF_ERROR(Read(&number));
  }
  if (opcode == kBinGet || opcode == kLongBinGet) {
    const auto found = memo_.find(number);
    if (found == memo_.end()) return Error("memo {} was never set", number);
    stack_.push_back(found->second);
    return absl::OkStatus();
  }
  // Writers number their memos from 0 on.
  if (number > at_) return Error("memo {} out of order", number);
  OPTSERVE_ASSIGN_OR_RETURN(memo_[number], Top());
  return absl::OkStatus();
}

absl::StatusOr<Pickle> ParsePickle(std::span<const std::byte> bytes) { return PickleParser(bytes).Parse(); }

const PickleValue* Pickle::Find(const PickleValue& dict, std::string_view key) const {
  if (dict.kind != PickleKind::kDict) return nullptr;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& name = at(dict.items[i]);
    if (name.kind == PickleKind::kString && name.text == key) return &at(dict.items[i + 1]);
  }
  return nullptr;
}

}  // namespace optserve
