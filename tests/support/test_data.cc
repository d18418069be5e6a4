#include "tests/support/test_data.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace optserve {
namespace {

std::filesystem::path SourceDirectory() {
  const char* elsewhere = std::getenv("OPTSERVE_TEST_ROOT");
  return elsewhere != nullptr ? elsewhere : OPTSERVE_SOURCE_DIR;
}

}  // namespace

std::filesystem::path TestDataPath(std::string_view relative) {
  const std::filesystem::path source_dir = SourceDirectory();
  for (const auto& root : {source_dir / "../shared/data", source_dir / "tests/data"}) {
    if (std::filesystem::exists(root / relative)) return root / relative;
  }
  throw std::runtime_error("no test data at " + std::string(relative));
}

std::filesystem::path DemoModelPath() { return SourcePath("deploy/demo-model"); }

std::filesystem::path SourcePath(std::string_view relative) { return SourceDirectory() / relative; }

std::string ReadTestData(const std::filesystem::path& path) {
  std::ifstream file(path.is_absolute() ? path : TestDataPath(path.string()), std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace optserve
