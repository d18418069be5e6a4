#include "server/doctor/doctor.h"

namespace optserve {

std::vector<Finding> Examine(const DoctorRequest& request) {
  Findings findings;
  const GpuNodeFacts gpus = CheckGpus(request, findings);
  CheckLinks(request, gpus, findings);
  CheckHost(request, gpus, findings);
  CheckModel(request, gpus, findings);
  CheckServing(request, findings);
  return findings.list();
}

}  // namespace optserve
