// One pickle. Values refer to values and to bytes of the pickle; there are not many more of them than bytes; what
// follows the end mark changes nothing.

#include "engine/checkpoint/pickle.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

bool IsInside(std::string_view text, std::span<const std::byte> bytes) {
  if (text.empty()) return true;
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return begin >= bytes.data() && begin + text.size() <= bytes.data() + bytes.size();
}

void CheckValues(const Pickle& pickle, std::span<const std::byte> bytes) {
  FUZZ_CHECK(pickle.num_bytes() <= bytes.size());
  FUZZ_CHECK(pickle.root() >= 0 && pickle.root() < pickle.size());
  size_t items = 0;
  for (PickleId id = 0; id < pickle.size(); ++id) {
    const PickleValue& value = pickle.at(id);
    // The module and name of a STACK_GLOBAL, too, are the pickle's own.
    FUZZ_CHECK(IsInside(value.text, bytes) && IsInside(value.name, bytes));
    for (const PickleId item : value.items) FUZZ_CHECK(item >= 0 && item < pickle.size());
    items += value.items.size();
    if (value.kind == PickleKind::kDict) FUZZ_CHECK(value.items.size() % 2 == 0);
    if (value.kind == PickleKind::kReference) FUZZ_CHECK(value.items.size() == 1);
    if (value.kind == PickleKind::kCall) FUZZ_CHECK(value.items.size() == 2);
  }
  FUZZ_CHECK(static_cast<size_t>(pickle.size()) <= 2 * pickle.num_bytes());
  FUZZ_CHECK(items <= 4 * pickle.num_bytes());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto pickle = ParsePickle(bytes);
  if (!pickle.ok()) {
    FUZZ_CHECK(fuzz::Message(pickle.status()).find('\n') == std::string_view::npos);
    return 0;
  }
  CheckValues(*pickle, bytes);
  const auto again = ParsePickle(bytes.first(pickle->num_bytes()));
  FUZZ_CHECK(again.ok() && again->size() == pickle->size() && again->root() == pickle->root());
  FUZZ_CHECK(!ParsePickle(bytes.first(pickle->num_bytes() - 1)).ok());
  return 0;
}
