// The directory of a zip file, and what torch keeps in one. Members lie in the file and share no byte; tensors lie in
// it.

#include <algorithm>
#include <set>
#include <vector>

#include "engine/checkpoint/torch_archive.h"
#include "engine/checkpoint/zip_directory.h"
#include "tests/fuzz/tensor_checks.h"

using namespace optserve;

namespace {

void CheckMembers(const fuzz::InputFile& file, const std::vector<ZipMember>& members) {
  std::set<std::string_view> names;
  std::vector<std::span<const std::byte>> ranges;
  for (const ZipMember& member : members) {
    FUZZ_CHECK(names.insert(member.name).second);
    if (!member.problem.empty()) continue;
    FUZZ_CHECK(file.Holds(member.bytes.data(), member.bytes.size()));
    if (!member.bytes.empty()) ranges.push_back(member.bytes);
  }
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  for (size_t i = 1; i < ranges.size(); ++i) {
    FUZZ_CHECK(ranges[i - 1].data() + ranges[i - 1].size() <= ranges[i].data());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::InputFile file("pytorch_model.bin", fuzz::Text(data, size));
  const auto members = ReadZipDirectory(file.get().bytes());
  if (members.ok()) CheckMembers(file, *members);
  const auto archive = OpenTorchZip(file.get());
  if (!archive.ok()) return 0;
  FUZZ_CHECK(members.ok());
  const auto tensors = ReadStateDict(*archive);
  if (tensors.ok()) fuzz::CheckTensors(file, *tensors);
  return 0;
}
