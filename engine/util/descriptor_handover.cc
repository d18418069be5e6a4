#include "engine/util/descriptor_handover.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <random>
#include <string_view>
#include <utility>

#include "engine/util/status.h"

namespace optserve {
namespace {

std::pair<sockaddr_un, socklen_t> AddressOf(std::string_view name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  name = name.substr(0, sizeof(address.sun_path) - 1);
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())};
}

bool IsOfThisUser(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

// Descriptors travel beside one byte.
struct Parcel {
  char byte = 0;
  iovec data = {.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(DescriptorOffer::kMax * sizeof(int))> control = {};
  msghdr message = {};

  Parcel() {
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
  }
};

bool Send(int socket, std::span<const int> descriptors) {
  Parcel parcel;
  parcel.message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* const header = CMSG_FIRSTHDR(&parcel.message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  return sendmsg(socket, &parcel.message, MSG_NOSIGNAL) == 1;
}

}  // namespace

DescriptorOffer::~DescriptorOffer() {
  if (listening_ >= 0) close(listening_);
}

absl::Status DescriptorOffer::Open() {
  std::random_device random;
  name_ = fmt::format("optserve-{}-{:08x}{:08x}{:08x}{:08x}", getpid(), random(), random(), random(), random());
  const auto [address, size] = AddressOf(name_);
  listening_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listening_ < 0 || bind(listening_, reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      listen(listening_, 4) != 0) {
    return Internal("cannot listen on a local socket: {}", strerror(errno));  // NOLINT: glibc's is thread-safe
  }
  return absl::OkStatus();
}

void DescriptorOffer::Answer(std::span<const int> descriptors) {
  const int connection = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) return;
  if (IsOfThisUser(connection) && Send(connection, descriptors)) {
    close(listening_);
    listening_ = -1;
  }
  close(connection);
}

absl::StatusOr<std::vector<int>> FetchDescriptors(const std::string& name, size_t count) {
  const int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const auto [address, size] = AddressOf(name);
  if (connection < 0) return Internal("cannot make a socket: {}", strerror(errno));  // NOLINT
  Parcel parcel;
  const bool is_there = connect(connection, reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
                        IsOfThisUser(connection) && recvmsg(connection, &parcel.message, MSG_CMSG_CLOEXEC) == 1;
  const cmsghdr* const header = is_there ? CMSG_FIRSTHDR(&parcel.message) : nullptr;
  close(connection);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(count * sizeof(int))) {
    return Internal("nobody on this machine offers {}", name);
  }
  std::vector<int> descriptors(count);
  std::memcpy(descriptors.data(), CMSG_DATA(header), count * sizeof(int));
  return descriptors;
}

}  // namespace optserve
