#include "engine/util/descriptor_handover.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

namespace optserve {
namespace {

TEST(DescriptorHandoverTest, TheFirstWhoAsksGetsACopy) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  DescriptorOffer offer;
  ASSERT_TRUE(offer.Open().ok());
  const std::string name = offer.name();
  std::thread giving([&] {
    pollfd asked = {.fd = offer.fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&asked, 1, 10000), 1);
    offer.Answer(pair[0]);
  });
  const absl::StatusOr<int> fetched = FetchDescriptor(name);
  giving.join();
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(offer.fd(), -1);
  close(pair[0]);
  ASSERT_EQ(write(*fetched, "x", 1), 1);
  char byte = 0;
  ASSERT_EQ(read(pair[1], &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
  EXPECT_FALSE(FetchDescriptor(name).ok());  // taken
  close(*fetched);
  close(pair[1]);
}

TEST(DescriptorHandoverTest, ANameThatNobodyOffersIsAnError) {
  EXPECT_EQ(FetchDescriptor("optserve-0-nobody").status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace optserve
