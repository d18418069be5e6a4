#include "server/commands/freed_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

namespace optserve {
namespace {

// Sanitizers have a malloc of their own, which keeps what is freed.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

size_t ResidentMiB() {
  size_t all_pages = 0;
  size_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> all_pages >> resident_pages;
  return resident_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) >> 20;
}

// 200 MiB in pieces of 4 KiB, of which all are freed but the last.
std::unique_ptr<char[]> LeaveAPieceOfMany() {
  std::vector<std::unique_ptr<char[]>> pieces(50 << 10);
  for (auto& piece : pieces) {
    piece = std::make_unique<char[]>(4 << 10);  // and writes zeros, or it would not be there
  }
  return std::move(pieces.back());
}

TEST(FreedMemoryTest, WhatMallocKeepsIsGivenBackWhenItIsTime) {
  const auto now = FreedMemory::Clock::now();
  FreedMemory memory(now);
  const size_t before = ResidentMiB();
  std::unique_ptr<char[]> last;
  std::thread([&] { last = LeaveAPieceOfMany(); }).join();  // in a heap of its own
  ASSERT_GT(ResidentMiB(), before + 180);                   // else there is nothing to see here
  memory.GiveBack(now);                                     // not yet
  ASSERT_GT(ResidentMiB(), before + 180);
  memory.GiveBack(now + FreedMemory::kPeriod);
  EXPECT_LT(ResidentMiB(), before + 30);
  EXPECT_EQ(memory.next(), now + 2 * FreedMemory::kPeriod);
}

// It does not grow, and has been freed since.
TEST(FreedMemoryTest, WhatIsFreedLaterIsGivenBackTooIfTheProcessIsLarge) {
  const auto now = FreedMemory::Clock::now();
  FreedMemory memory(now);
  const std::vector<char> needed(160 << 20, 1);
  const size_t before = ResidentMiB();
  auto time = now + FreedMemory::kPeriod;
  std::vector<std::unique_ptr<char[]>> pieces(10 << 10);
  for (auto& piece : pieces) piece = std::make_unique<char[]>(4 << 10);  // 40 MiB
  memory.GiveBack(time);
  const std::unique_ptr<char[]> last = std::move(pieces.back());
  pieces.clear();
  for (int i = 0; i < 4; ++i) memory.GiveBack(time += FreedMemory::kPeriod);
  EXPECT_GT(ResidentMiB(), before + 30);
  for (int i = 0; i < 6; ++i) memory.GiveBack(time += FreedMemory::kPeriod);
  EXPECT_LT(ResidentMiB(), before + 10);
}

#endif

}  // namespace
}  // namespace optserve
