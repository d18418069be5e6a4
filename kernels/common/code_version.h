#pragma once

namespace optserve {

// What the kernels' code that runs on the current CUDA device was made for: 70 for sm_70, also where the driver has
// translated its PTX for a newer GPU. 0: this build has no code for that GPU.
int KernelCodeVersion();

}  // namespace optserve
