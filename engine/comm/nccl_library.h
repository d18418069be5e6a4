#pragma once

#include <cstddef>

#include "absl/status/statusor.h"

// NVIDIA's NCCL as a library that is loaded when it is needed, not linked: 200 MB that most machines do without. Its
// interface is written down here as far as it is used, so that every build can load it; nccl_header_check.cc compares
// that with NVIDIA's header where there is one.

namespace optserve::nccl {

struct Comm;  // ncclComm

struct UniqueId {
  char bytes[128];
};

// ncclResult_t, ncclDataType_t, ncclRedOp_t
inline constexpr int kSuccess = 0;
inline constexpr int kInProgress = 7;
inline constexpr int kChar = 0, kFloat = 7;
inline constexpr int kSum = 0;

using Stream = void*;  // cudaStream_t

// Versions count as 20906 for 2.9.6. The first whose calls may be captured in CUDA graphs.
inline constexpr int kFirstWithGraphs = 20906;

struct Library {
  int version = 0;
  int (*get_unique_id)(UniqueId* id) = nullptr;
  int (*comm_init_rank)(Comm** comm, int num_ranks, UniqueId id, int rank) = nullptr;
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int op, Comm* comm, Stream stream) = nullptr;
  int (*all_gather)(const void* from, void* to, size_t count, int type, Comm* comm, Stream stream) = nullptr;
  int (*get_async_error)(Comm* comm, int* error) = nullptr;
  int (*abort)(Comm* comm) = nullptr;
  const char* (*error_string)(int result) = nullptr;
};

// libnccl.so.2, for the rest of the process. FailedPrecondition: there is none, or one that is too old. Any thread.
absl::StatusOr<const Library*> Load();

}  // namespace optserve::nccl
