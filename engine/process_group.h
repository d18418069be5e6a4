#pragma once

#include <signal.h>

#include <string>
#include <vector>

namespace optserve {

// Tells RunEngineGroup to end the launcher and then itself. Not SIGTERM: that is for the front end, which is in the
// same process group, and which drains.
inline constexpr int kEndGroupSignal = SIGUSR1;

// An engine whose ranks are processes, on one machine or several, that mpirun or srun starts (adr/0009). To the front
// end it looks like RunEngineProcess: the same frames on `fd`, which it hands to the process of rank 0 once that is
// there. `launcher` are the words of a command that runs the words behind it once for each rank, rank 0 on this
// machine: "mpirun", "-n", "4", ...
//
// This process only waits: it passes on what the launcher prints, says at the end which rank was lost, and ends the
// launcher when the front end has closed its end, at kEndGroupSignal, or when it is killed itself. Returns the exit
// code.
int RunEngineGroup(int fd, const std::vector<std::string>& launcher);

}  // namespace optserve
