#pragma once

#include "server/doctor/doctor.h"

namespace optserve {

// `optserve doctor`: prints a line for each check, or one JSON object. Returns the exit code: 1 if anything failed.
int Doctor(const DoctorRequest& request, bool json);

}  // namespace optserve
