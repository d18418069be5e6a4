// optserve-rank NAME: one rank of an engine whose ranks are processes, started by mpirun or srun. Not for users: see
// process_group.h, which starts the launcher, and adr/0009.

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/mpi_group.h"
#include "engine/engine.h"
#include "engine/executor/mpi_executor.h"
#include "engine/process_main.h"
#include "engine/util/awaited_ranks.h"
#include "engine/util/descriptor_handover.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

// `name` is that of RunEngineGroup's offer.
absl::Status RunRank(const std::string& name) {
  // Before there is a second thread: see MakeMpiExecutor.
  sigset_t end;
  sigemptyset(&end);
  sigaddset(&end, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &end, nullptr);
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<MpiGroup> group, MpiGroup::Join());
  if (group->rank() > 0) return RunFollower(*group);
  const absl::StatusOr<std::vector<int>> offered = FetchDescriptors(name, 2);
  if (!offered.ok()) return Within("rank 0 does not find the front end", offered.status());
  const int fd = (*offered)[0];
  OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<AwaitedRanks> awaited, AwaitedRanks::Open((*offered)[1]));
  group->NoteAwaitedIn(std::move(awaited));
  const EngineStarter start = [&group](const EngineConfig& config,
                                       const LoadProgress& progress) -> absl::StatusOr<std::unique_ptr<EngineClient>> {
    return LocalEngine::Start(config, MakeMpiExecutor(*group, config), progress);
  };
  // Rank 0 outlives the launcher for a moment, to say whom it misses; RunEngineGroup sees to it that it ends.
  if (RunEngineProcess(fd, start, /*parent_death_signal=*/SIGTERM) == 0) return absl::OkStatus();
  return Internal("the engine could not be started");
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("optserve-rank: optserve serve --engine-launcher starts this, nobody else\n", stderr);
    return 2;
  }
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const absl::Status status = optserve::RunRank(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "optserve: %s\n", std::string(status.message()).c_str());
  std::_Exit(status.ok() ? 0 : 1);
}
