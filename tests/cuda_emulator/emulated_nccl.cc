// libnccl.so.2 for emulated GPUs, between the threads of a process or between processes, on one machine or several. It
// is loaded in place of NVIDIA's library, and behaves like that where the engine can see it:
//
//  - work is queued on the GPU's stream, and kept in a graph that is being captured;
//  - a rank that has gone leaves the others' work waiting; it is at most an asynchronous error, until they abort;
//  - ncclCommAbort ends waiting work, and comes back when no graph is left that holds calls of the communicator.
//
// Ranks send what they have to rank 0, which adds up in the order of ranks and sends the sums back. Settings:
// OPTSERVE_EMULATOR_NCCL (22105 is 2.21.5), OPTSERVE_EMULATOR_NCCL_SILENT=1 (a rank that has gone is no error
// either, as between GPUs that write into each other's memory), and NCCL_SOCKET_IFNAME, the interface to listen on if
// the ranks are on several machines.

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/nccl_library.h"
#include "tests/cuda_emulator/emulator.h"

namespace {

using optserve::nccl::UniqueId;

// ncclResult_t
constexpr int kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5, kRemoteError = 6;

struct Address {
  in_addr host;
  in_port_t port;
  uint64_t token;
};
static_assert(sizeof(Address) <= sizeof(UniqueId));

struct Hello {
  uint64_t token;
  int32_t rank, size;
};

// In front of each tensor: ranks must make the same calls in the same order.
struct Call {
  uint64_t number, bytes;
  int64_t op;
  bool operator==(const Call&) const = default;
};
constexpr int64_t kAllReduce = 1, kAllGather = 2;

bool Send(int fd, const void* data, size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = send(fd, at, bytes, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += sent;
    bytes -= static_cast<size_t>(sent);
  }
  return true;
}

bool Receive(int fd, void* data, size_t bytes) {
  return bytes == 0 || recv(fd, data, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
}

void SendAtOnce(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

// Sockets that listen for the other ranks of a group, until rank 0 of this process joins it.
std::mutex listening_mu;
std::map<uint64_t, int>& listening() {
  static std::map<uint64_t, int> sockets;
  return sockets;
}

in_addr ListeningAddress() {
  in_addr found = {.s_addr = htonl(INADDR_LOOPBACK)};
  const char* interface = std::getenv("NCCL_SOCKET_IFNAME");
  ifaddrs* all = nullptr;
  if (interface == nullptr || getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    if (std::string(one->ifa_name).starts_with(interface)) {
      found = reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr;
    }
  }
  freeifaddrs(all);
  return found;
}

}  // namespace

struct ncclComm : std::enable_shared_from_this<ncclComm> {
  int rank = 0, size = 1;
  std::vector<int> sockets;  // of rank 0: to each rank, [0] is none; of the others: [0], to rank 0
  std::atomic<int> async_error = kSuccess;

  ~ncclComm() {
    for (const int fd : sockets) {
      if (fd >= 0) close(fd);
    }
  }

  // What `stream` is to do: `run`, which says whether the other ranks took part.
  template <typename Run>
  int Queue(void* stream, Run run) {
    auto& queue = *static_cast<optserve::emulator::Stream*>(stream);
    const bool is_kept = queue.captured != nullptr;
    if (is_kept) AddHolders(1);
    const auto holder = std::shared_ptr<void>(this, [self = shared_from_this(), is_kept](void*) {
      if (is_kept) self->AddHolders(-1);
    });
    queue.Take({nullptr, [this, holder, run] { Work(run); }});
    return kSuccess;
  }

  template <typename Run>
  void Work(Run run) {
    std::unique_lock lock(mu);
    if (is_aborted) return;
    ++at_work;
    lock.unlock();
    const int error = async_error != kSuccess ? async_error.load() : run();
    lock.lock();
    if (error != kSuccess) {
      static const bool is_silent = std::getenv("OPTSERVE_EMULATOR_NCCL_SILENT") != nullptr;
      if (error != kRemoteError || !is_silent) async_error = error;
      changed.wait(lock, [this] { return is_aborted; });
    }
    --at_work;
    changed.notify_all();
  }

  void Abort() {
    std::unique_lock lock(mu);
    is_aborted = true;
    for (const int fd : sockets) {
      if (fd >= 0) shutdown(fd, SHUT_RDWR);
    }
    changed.notify_all();
    changed.wait(lock, [this] { return at_work == 0 && holders == 0; });
  }

  void AddHolders(int count) {
    const std::lock_guard lock(mu);
    holders += count;
    changed.notify_all();
  }

  // Each rank has `bytes` at `from`; rank 0 makes `result` of all of them, and all get it at `to`.
  template <typename Join>
  int Exchange(int64_t op, const void* from, size_t bytes, void* to, size_t result_bytes, Join join) {
    const Call call{++num_calls, bytes, op};
    if (rank > 0) {
      Call answer;
      if (!Send(sockets[0], &call, sizeof(call)) || !Send(sockets[0], from, bytes)) return kRemoteError;
      if (!Receive(sockets[0], &answer, sizeof(answer)) || !Receive(sockets[0], to, result_bytes)) return kRemoteError;
      return answer == call ? kSuccess : kInvalidUsage;
    }
    std::vector<std::vector<std::byte>> parts(static_cast<size_t>(size));
    for (int r = 0; r < size; ++r) {
      std::vector<std::byte>& part = parts[static_cast<size_t>(r)];
      part.resize(bytes);
      if (r == 0) {
        std::memcpy(part.data(), from, bytes);
        continue;
      }
      Call theirs;
      if (!Receive(sockets[static_cast<size_t>(r)], &theirs, sizeof(theirs))) return kRemoteError;
      if (theirs != call) return kInvalidUsage;
      if (!Receive(sockets[static_cast<size_t>(r)], part.data(), bytes)) return kRemoteError;
    }
    join(parts);
    for (int r = 1; r < size; ++r) {
      const int fd = sockets[static_cast<size_t>(r)];
      if (!Send(fd, &call, sizeof(call)) || !Send(fd, to, result_bytes)) return kRemoteError;
    }
    return kSuccess;
  }

  int JoinAsFirst(uint64_t token) {
    int listener = -1;
    {
      const std::lock_guard lock(listening_mu);
      const auto found = listening().find(token);
      if (found == listening().end()) return kInvalidArgument;
      listener = found->second;
      listening().erase(found);
    }
    sockets.assign(static_cast<size_t>(size), -1);
    int result = kSuccess;
    for (int missing = size - 1; missing > 0 && result == kSuccess;) {
      const int fd = accept(listener, nullptr, nullptr);
      Hello hello;
      if (fd < 0) {
        result = kSystemError;
      } else if (!Receive(fd, &hello, sizeof(hello)) || hello.token != token) {
        close(fd);  // a stranger
      } else if (hello.size != size || hello.rank <= 0 || hello.rank >= size || sockets[size_t(hello.rank)] >= 0) {
        close(fd);
        result = kInvalidUsage;
      } else {
        SendAtOnce(fd);
        sockets[static_cast<size_t>(hello.rank)] = fd;
        --missing;
      }
    }
    close(listener);
    for (int r = 1; r < size && result == kSuccess; ++r) {
      if (!Send(sockets[static_cast<size_t>(r)], &token, sizeof(token))) result = kRemoteError;
    }
    return result;
  }

  int JoinAsOther(const Address& first) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockets = {fd};
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_addr = first.host;
    to.sin_port = first.port;
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) return kSystemError;
    SendAtOnce(fd);
    const Hello hello{first.token, rank, size};
    uint64_t answer = 0;
    if (!Send(fd, &hello, sizeof(hello)) || !Receive(fd, &answer, sizeof(answer))) return kRemoteError;
    return kSuccess;
  }

 private:
  uint64_t num_calls = 0;  // on the stream
  std::mutex mu;
  std::condition_variable changed;
  bool is_aborted = false;
  int at_work = 0;
  int holders = 0;  // calls kept in graphs
};

namespace {

// Communicators that have not been aborted.
std::mutex comms_mu;
std::map<ncclComm*, std::shared_ptr<ncclComm>>& comms() {
  static std::map<ncclComm*, std::shared_ptr<ncclComm>> all;
  return all;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  const char* setting = std::getenv("OPTSERVE_EMULATOR_NCCL");
  *version = setting != nullptr ? std::atoi(setting) : 22105;
  return kSuccess;
}

const char* ncclGetErrorString(int result) {
  switch (result) {
    case kSuccess:
      return "no error";
    case kInvalidArgument:
      return "invalid argument";
    case kInvalidUsage:
      return "invalid usage";
    case kRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "unhandled system error";
  }
}

int ncclGetUniqueId(UniqueId* id) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr = ListeningAddress();
  socklen_t size = sizeof(at);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&at), size) != 0 || listen(fd, 64) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) != 0) {
    return kSystemError;
  }
  std::random_device random;
  const Address address{at.sin_addr, at.sin_port, uint64_t{random()} << 32 | random()};
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id->bytes, &address, sizeof(address));
  const std::lock_guard lock(listening_mu);
  listening()[address.token] = fd;
  return kSuccess;
}

int ncclCommInitRank(ncclComm** comm, int size, UniqueId id, int rank) {
  Address first;
  std::memcpy(&first, id.bytes, sizeof(first));
  auto made = std::make_shared<ncclComm>();
  made->rank = rank;
  made->size = size;
  if (const int result = rank == 0 ? made->JoinAsFirst(first.token) : made->JoinAsOther(first); result != kSuccess) {
    return result;
  }
  *comm = made.get();
  const std::lock_guard lock(comms_mu);
  comms()[made.get()] = std::move(made);
  return kSuccess;
}

int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, ncclComm* comm, void* stream) {
  if (type != optserve::nccl::kFloat || op != optserve::nccl::kSum) return kInvalidArgument;
  return comm->Queue(stream, [=] {
    const size_t bytes = count * sizeof(float);
    return comm->Exchange(kAllReduce, from, bytes, to, bytes, [&](const std::vector<std::vector<std::byte>>& parts) {
      auto* const sum = static_cast<float*>(to);
      std::memcpy(sum, parts[0].data(), bytes);
      for (size_t r = 1; r < parts.size(); ++r) {
        const auto* const part = reinterpret_cast<const float*>(parts[r].data());
        for (size_t i = 0; i < count; ++i) sum[i] += part[i];
      }
    });
  });
}

int ncclAllGather(const void* from, void* to, size_t count, int type, ncclComm* comm, void* stream) {
  if (type != optserve::nccl::kChar) return kInvalidArgument;
  return comm->Queue(stream, [=] {
    const size_t all = count * static_cast<size_t>(comm->size);
    return comm->Exchange(kAllGather, from, count, to, all, [&](const std::vector<std::vector<std::byte>>& parts) {
      for (size_t r = 0; r < parts.size(); ++r) {
        std::memcpy(static_cast<std::byte*>(to) + r * count, parts[r].data(), count);
      }
    });
  });
}

int ncclCommGetAsyncError(ncclComm* comm, int* error) {
  *error = comm->async_error;
  return kSuccess;
}

int ncclCommAbort(ncclComm* comm) {
  std::shared_ptr<ncclComm> last;
  {
    const std::lock_guard lock(comms_mu);
    const auto found = comms().find(comm);
    if (found == comms().end()) return kInvalidArgument;
    last = std::move(found->second);
    comms().erase(found);
  }
  last->Abort();
  return kSuccess;
}

}  // extern "C"
