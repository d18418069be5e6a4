// The file of API keys. A key that is added is found, and the file without it means what it meant before.

#include <algorithm>

#include "server/access/api_keys.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

bool Same(const std::vector<ApiKey>& a, const std::vector<ApiKey>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const ApiKey& x, const ApiKey& y) {
    return std::tie(x.id, x.hash, x.created, x.name) == std::tie(y.id, y.hash, y.created, y.name);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::filesystem::path file = fuzz::ScratchFolder() / "keys";
  fuzz::WriteFile(file, fuzz::Text(data, size));
  std::filesystem::permissions(file, std::filesystem::perms(0600));
  const auto before = ReadApiKeys(file);
  if (!before.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(before.status()));
    FUZZ_CHECK(!AddApiKey(file, "new").ok());
    return 0;
  }
  for (const ApiKey& key : *before) {
    FUZZ_CHECK(key.id.starts_with("key-") && !key.created.empty());
    FUZZ_CHECK(key.name.find('\n') == std::string::npos);
  }
  const auto made = AddApiKey(file, "new");
  FUZZ_CHECK(made.ok());
  const auto with = ReadApiKeys(file);
  FUZZ_CHECK(with.ok() && with->size() == before->size() + 1);
  FUZZ_CHECK(with->back().id == made->key.id && with->back().hash == HashApiKey(made->secret));
  FUZZ_CHECK(RevokeApiKey(file, made->key.id).ok());
  const auto after = ReadApiKeys(file);
  FUZZ_CHECK(after.ok() && Same(*after, *before));
  return 0;
}
