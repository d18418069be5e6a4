#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "clients/bench/client_target.h"
#include "clients/bench/session.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/bench.h"
#include "server/commands/bench_report.h"
#include "server/commands/failure.h"

namespace optserve {
namespace {

// What this machine can do says something about a server on this machine only.
bool IsHere(const std::string& address) {
  for (const char* host : {"://127.", "://localhost", "://[::1]"}) {
    if (address.find(host) != address.npos) return true;
  }
  return false;
}

absl::Status Run(BenchOptions& options) {
  OPTSERVE_RETURN_IF_ERROR(CheckOutputs(options.outputs));
  const BenchServer& server = options.server;
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<bench::ClientTarget> target,
                            bench::ClientTarget::Make({.address = server.address,
                                                       .api_key = server.api_key,
                                                       .ca_file = server.ca_file,
                                                       .metrics_address = server.metrics_address,
                                                       .model = server.model,
                                                       .timeout_seconds = server.timeout_seconds,
                                                       .plain = server.plain}));
  OPTSERVE_ASSIGN_OR_RETURN(const std::string model, target->ModelName());
  bench::Subject subject{
      .target = *target,
      .read = [&target] { return target->Read(); },
      .steps = [&target] { return target->Steps(); },
      .progress = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); },
  };
  if (!options.no_roof && IsHere(server.address)) subject.roof = MeasureRoof(/*num_threads=*/0);
  OPTSERVE_ASSIGN_OR_RETURN(bench::Report report, bench::RunSession(options.session, subject));
  return PublishReport(std::move(report), options, fmt::format("{} at {}", model, server.address));
}

}  // namespace

int BenchServe(BenchOptions options) {
  const absl::Status status = Run(options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
