#include "server/commands/checkpoints.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "absl/status/statusor.h"
#include "engine/tools/inspect.h"
#include "engine/tools/verify.h"
#include "server/commands/failure.h"
#include "server/commands/load_display.h"
#include "server/commands/model_path.h"

namespace optserve {

int Inspect(const InspectOptions& options) {
  const absl::StatusOr<std::filesystem::path> path =
      ResolveModel(options.model, HuggingFaceCache(ProcessEnvironment()));
  if (!path.ok()) return Fail(path.status());
  const absl::StatusOr<ModelReport> report = InspectModel(path->string());
  if (!report.ok()) return Fail(report.status());
  const std::string text = options.json ? ReportJson(*report) : ReportText(*report);
  std::fputs(text.c_str(), stdout);
  return kExitOk;
}

int Verify(const VerifyCommandOptions& options) {
  const absl::StatusOr<std::filesystem::path> path =
      ResolveModel(options.model, HuggingFaceCache(ProcessEnvironment()));
  if (!path.ok()) return Fail(path.status());
  LoadDisplay display(ModelName(options.model));
  const absl::StatusOr<VerifyReport> report =
      VerifyModel({.model_directory = path->string(), .checksum_file = options.checksums},
                  [&](int64_t done, int64_t total) { display.Update(done, total); });
  display.Finish();
  if (!report.ok()) return Fail(report.status());
  for (const std::string& problem : report->problems) std::fputs(("optserve: " + problem + "\n").c_str(), stderr);
  if (!report->problems.empty()) return kExitBadUsage;
  const std::string line =
      fmt::format("{} is whole: {} tensors of finite numbers, {} bytes read, {} checksums compared\n",
                  ModelName(options.model), report->tensors, report->bytes_read, report->checksums);
  std::fputs(line.c_str(), stdout);
  return kExitOk;
}

}  // namespace optserve
