#pragma once

#include <memory>

#include "engine/comm/communicator.h"
#include "engine/executor/step_clock.h"
#include "kernels/backend.h"

namespace optserve {

// The same backend and communicator, whose ops are also counted on `clock`, which outlives them. Of a device that runs
// behind the calls only the launches are seen, and the time that Synchronize waits for it; so of a communicator whose
// work does not run at once.
std::unique_ptr<Backend> MakeTimedBackend(std::unique_ptr<Backend> backend, StepClock& clock);
std::unique_ptr<Communicator> MakeTimedCommunicator(std::unique_ptr<Communicator> comm, bool runs_at_once,
                                                    StepClock& clock);

}  // namespace optserve
