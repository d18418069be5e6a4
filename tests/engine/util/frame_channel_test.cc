#include "engine/util/frame_channel.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace optserve {
namespace {

std::pair<int, int> SocketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
  return {fds[0], fds[1]};
}

TEST(FrameChannelTest, FramesArriveWholeAndInOrder) {
  const auto [a, b] = SocketPair();
  FrameChannel left(a);
  FrameChannel right(b);
  // Empty, larger than any socket buffer, and with bytes that look like lengths.
  const std::vector<std::string> frames = {"", "x", std::string(3 << 20, '\xff'), std::string("\0\1\2\3", 4), ""};
  for (const std::string& frame : frames) left.Send(frame);
  for (const std::string& frame : frames) {
    const auto got = right.Receive();
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(*got == frame);
  }
}

TEST(FrameChannelTest, BothDirectionsAtOnceWithManySenders) {
  const auto [a, b] = SocketPair();
  FrameChannel left(a);
  FrameChannel right(b);
  constexpr int kSenders = 4;
  constexpr int kFrames = 500;
  std::vector<std::thread> threads;
  for (int sender = 0; sender < kSenders; ++sender) {
    threads.emplace_back([&, sender] {
      FrameChannel& from = sender % 2 == 0 ? left : right;
      for (int i = 0; i < kFrames; ++i) from.Send(fmt::format("{}{}", static_cast<char>(sender), i));
    });
  }
  const auto receive_all = [](FrameChannel& channel) {
    std::vector<int> next(kSenders);
    for (int i = 0; i < kSenders / 2 * kFrames; ++i) {
      const auto frame = channel.Receive();
      ASSERT_TRUE(frame.ok()) << frame.status();
      int& expected = next[static_cast<size_t>(frame->front())];
      EXPECT_EQ(frame->substr(1), fmt::format("{}", expected++));
    }
  };
  threads.emplace_back([&] { receive_all(left); });
  receive_all(right);
  for (std::thread& thread : threads) thread.join();
}

TEST(FrameChannelTest, WhatWasFlushedIsReadEvenWhenTheSenderHasGone) {
  const auto [a, b] = SocketPair();
  FrameChannel right(b);
  {
    FrameChannel left(a);
    left.Send("last words");
    left.Flush();
  }
  EXPECT_EQ(right.Receive().value(), "last words");
  EXPECT_EQ(right.Receive().status().code(), absl::StatusCode::kUnavailable);
}

TEST(FrameChannelTest, SendNeitherWaitsNorFailsWhenNobodyReads) {
  const auto [a, b] = SocketPair();
  FrameChannel left(a);
  auto right = std::make_unique<FrameChannel>(b);
  for (int i = 0; i < 16; ++i) left.Send(std::string(1 << 20, 'x'));
  EXPECT_TRUE(left.WaitForRoom(17 << 20, std::chrono::milliseconds(0)));
  EXPECT_FALSE(left.WaitForRoom(8 << 20, std::chrono::milliseconds(1)));
  right.reset();
  EXPECT_FALSE(left.Receive().ok());
  left.Flush();  // returns: the peer has gone
  EXPECT_TRUE(left.WaitForRoom(0, std::chrono::milliseconds(0)));
  left.Send("x");
}

TEST(FrameChannelTest, ShutdownEndsAReceiveThatWaits) {
  const auto [a, b] = SocketPair();
  FrameChannel left(a);
  FrameChannel right(b);
  std::thread thread([&] { EXPECT_FALSE(left.Receive().ok()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  left.Shutdown();
  thread.join();
}

TEST(FrameChannelTest, ALengthThatNoPeerOfOursSendsIsRefused) {
  const auto [a, b] = SocketPair();
  FrameChannel right(b);
  ASSERT_EQ(write(a, "\xff\xff\xff\xff", 4), 4);
  EXPECT_THAT(std::string(right.Receive().status().message()), testing::HasSubstr("4294967295 bytes"));
  close(a);
}

}  // namespace
}  // namespace optserve
