#include "engine/util/descriptor_handover.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <vector>

namespace optserve {
namespace {

TEST(DescriptorHandoverTest, TheFirstWhoAsksGetsCopies) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  DescriptorOffer offer;
  ASSERT_TRUE(offer.Open().ok());
  const std::string name = offer.name();
  std::thread giving([&] {
    pollfd asked = {.fd = offer.fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&asked, 1, 10000), 1);
    offer.Answer(pair);
  });
  const absl::StatusOr<std::vector<int>> fetched = FetchDescriptors(name, 2);
  giving.join();
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(offer.fd(), -1);
  close(pair[0]);
  close(pair[1]);
  ASSERT_EQ(write((*fetched)[0], "x", 1), 1);
  char byte = 0;
  ASSERT_EQ(read((*fetched)[1], &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
  EXPECT_FALSE(FetchDescriptors(name, 2).ok());  // taken
  for (const int fd : *fetched) close(fd);
}

TEST(DescriptorHandoverTest, ANameThatNobodyOffersIsAnError) {
  EXPECT_EQ(FetchDescriptors("optserve-0-nobody", 1).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace optserve
