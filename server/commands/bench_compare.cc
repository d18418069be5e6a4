#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "clients/bench/compare.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/bench.h"
#include "server/commands/failure.h"

namespace optserve {
namespace {

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("{} cannot be read", path);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

absl::Status Run(const std::string& file_a, const std::string& file_b, bool json) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string a, ReadText(file_a));
  OPTSERVE_ASSIGN_OR_RETURN(const std::string b, ReadText(file_b));
  OPTSERVE_ASSIGN_OR_RETURN(const std::vector<bench::ComparedMetric> metrics, bench::CompareReports(a, b));
  const std::string out = json ? bench::CompareJson(metrics) : bench::CompareText(metrics);
  std::fputs(out.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

int BenchCompare(const std::string& file_a, const std::string& file_b, bool json) {
  const absl::Status status = Run(file_a, file_b, json);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
