// A safetensors file. Its tensors lie in it, and cover all behind the header without sharing a byte.

#include <cstring>
#include <set>

#include "engine/checkpoint/safetensors.h"
#include "tests/fuzz/tensor_checks.h"

using namespace optserve;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::InputFile file("model.safetensors", fuzz::Text(data, size));
  const bool looks_right = LooksLikeSafetensors(file.get());
  const auto tensors = ReadSafetensors(file.get());
  if (!tensors.ok()) {
    FUZZ_CHECK(fuzz::Message(tensors.status()).starts_with("model.safetensors: "));
    FUZZ_CHECK(fuzz::Message(tensors.status()).find('\n') == std::string_view::npos);
    return 0;
  }
  FUZZ_CHECK(looks_right);
  fuzz::CheckTensors(file, *tensors);
  uint64_t header = 0;
  std::memcpy(&header, data, sizeof(header));
  std::set<std::string_view> names;
  size_t bytes = 0;
  for (const CheckpointTensor& tensor : *tensors) {
    FUZZ_CHECK(names.insert(tensor.name).second);
    bytes += tensor.view.num_bytes();
  }
  FUZZ_CHECK(sizeof(header) + header + bytes == size);
  return 0;
}
