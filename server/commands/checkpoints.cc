#include "server/commands/checkpoints.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tools/convert.h"
#include "engine/tools/inspect.h"
#include "engine/tools/verify.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/failure.h"
#include "server/commands/load_display.h"
#include "server/commands/model_path.h"
#include "server/server_config.h"

namespace optserve {
namespace {

absl::StatusOr<ConvertOptions> ParseOptions(const ConvertCommandOptions& options) {
  ConvertOptions parsed{.source = {}, .target = options.target};
  OPTSERVE_ASSIGN_OR_RETURN(
      const std::filesystem::path source,
      ResolveModel(options.source, HuggingFaceCache(ProcessEnvironment()), !options.model_config.empty()));
  parsed.source = source.string();
  parsed.config_file = options.model_config;
  if (!options.tokenizer.empty()) {
    OPTSERVE_ASSIGN_OR_RETURN(const std::filesystem::path tokenizer, ResolveTokenizer(options.tokenizer, source));
    parsed.tokenizer_directory = tokenizer.string();
  }
  if (options.tensor_parallel_size > 0) {
    if (!options.max_shard_size.empty()) {
      return InvalidArgument("--tensor-parallel-size writes one file a rank; leave --max-shard-size out");
    }
    parsed.tensor_parallel_size = options.tensor_parallel_size;
  }
  if (!options.max_shard_size.empty()) {
    absl::StatusOr<int64_t> size = ParseSize(options.max_shard_size);
    if (!size.ok()) return Within("--max-shard-size", size.status());
    if (*size < 1)
      return InvalidArgument("--max-shard-size is {}, but must be at least a byte", options.max_shard_size);
    parsed.max_shard_bytes = *size;
  }
  if (options.dtype == "float16") {
    parsed.dtype = DType::kF16;
  } else if (options.dtype == "bfloat16") {
    parsed.dtype = DType::kBF16;
  } else if (options.dtype == "float32") {
    parsed.dtype = DType::kF32;
  } else if (options.dtype != "auto") {
    return InvalidArgument("--dtype is {}, but must be auto, float16, bfloat16 or float32", options.dtype);
  }
  return parsed;
}

}  // namespace

int Inspect(const InspectOptions& options) {
  const absl::StatusOr<std::filesystem::path> path =
      ResolveModel(options.model, HuggingFaceCache(ProcessEnvironment()), !options.model_config.empty());
  if (!path.ok()) return Fail(path.status());
  const absl::StatusOr<ModelReport> report = InspectModel(path->string(), options.model_config);
  if (!report.ok()) return Fail(report.status());
  const std::string text = options.json ? ReportJson(*report) : ReportText(*report);
  std::fputs(text.c_str(), stdout);
  return kExitOk;
}

int Verify(const VerifyCommandOptions& options) {
  const absl::StatusOr<std::filesystem::path> path =
      ResolveModel(options.model, HuggingFaceCache(ProcessEnvironment()), !options.model_config.empty());
  if (!path.ok()) return Fail(path.status());
  LoadDisplay display(ModelName(options.model));
  const absl::StatusOr<VerifyReport> report = VerifyModel(
      {.model_directory = path->string(), .checksum_file = options.checksums, .config_file = options.model_config},
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

int Convert(const ConvertCommandOptions& options) {
  const absl::StatusOr<ConvertOptions> parsed = ParseOptions(options);
  if (!parsed.ok()) return Fail(parsed.status());
  LoadDisplay display(ModelName(options.source));
  const absl::StatusOr<ConvertReport> report =
      ConvertModel(*parsed, [&](int64_t done, int64_t total) { display.Update(done, total); });
  display.Finish();
  if (!report.ok()) return Fail(report.status());
  const std::string line = fmt::format("{} is written: {} bytes of tensors, {} files new and {} kept from before\n",
                                       options.target, report->bytes, report->files_written, report->files_kept);
  std::fputs(line.c_str(), stdout);
  return kExitOk;
}

}  // namespace optserve
