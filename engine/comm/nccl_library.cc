#include "engine/comm/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>

#include "engine/util/status.h"

namespace optserve::nccl {
namespace {

absl::StatusOr<const Library*> LoadOnce() {
  // Connections and their buffers, which NCCL from 2.22 on makes at the first call that wants them, it is to make at
  // the start, before the rest of the GPU's memory is given to the KV cache.
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
  void* const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return FailedPrecondition("NCCL is not installed (libnccl.so.2, which LD_LIBRARY_PATH may name)");
  }
  static Library library;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    return function != nullptr;
  };
  int (*get_version)(int* version) = nullptr;
  if (find(get_version, "ncclGetVersion") && find(library.get_unique_id, "ncclGetUniqueId") &&
      find(library.comm_init_rank, "ncclCommInitRank") && find(library.all_reduce, "ncclAllReduce") &&
      find(library.all_gather, "ncclAllGather") && find(library.get_async_error, "ncclCommGetAsyncError") &&
      find(library.abort, "ncclCommAbort") && find(library.error_string, "ncclGetErrorString") &&
      get_version(&library.version) == kSuccess) {
    return &library;
  }
  return FailedPrecondition("libnccl.so.2 lacks functions of NCCL 2.4");
}

}  // namespace

absl::StatusOr<const Library*> Load() {
  static const auto* const loaded = new absl::StatusOr<const Library*>(LoadOnce());
  return *loaded;
}

}  // namespace optserve::nccl
