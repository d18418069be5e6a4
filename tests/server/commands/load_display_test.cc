#include "server/commands/load_display.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

namespace optserve {
namespace {

using std::chrono::milliseconds;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using Clock = LoadDisplay::Clock;

constexpr int64_t kMiB = 1 << 20;
const Clock::time_point kBegin = Clock::now();

// What `show` makes a display write that writes no terminal.
template <typename Function>
std::string Written(const Function& show) {
  std::FILE* file = std::tmpfile();
  LoadDisplay display("demo", file, kBegin);
  show(display);
  std::string text(static_cast<size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file), text.size());
  std::fclose(file);
  return text;
}

TEST(LoadDisplayTest, AQuickLoadSaysNothing) {
  EXPECT_EQ(Written([](LoadDisplay& display) {
              for (int i = 0; i <= 100; ++i) display.Update(i, 100, kBegin + milliseconds(9 * i));
              display.Finish();
            }),
            "");
}

TEST(LoadDisplayTest, ALongLoadIsALineNowAndThen) {
  EXPECT_EQ(Written([](LoadDisplay& display) {
              for (int i = 0; i <= 100; ++i) display.Update(i * kMiB, 100 * kMiB, kBegin + milliseconds(100 * i));
              display.Finish();
            }),
            "loading demo:  10 %  10 of 100 MiB  0.01 GB/s, 9 s left\n"
            "loading demo:  60 %  60 of 100 MiB  0.01 GB/s, 4 s left\n");
}

TEST(LoadDisplayTest, ATerminalGetsABarThatIsTakenAway) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  ASSERT_EQ(grantpt(terminal), 0);
  ASSERT_EQ(unlockpt(terminal), 0);
  std::FILE* file = std::fopen(ptsname(terminal), "w");
  ASSERT_NE(file, nullptr);
  LoadDisplay display("demo", file, kBegin);
  display.Update(1 * kMiB, 4 * kMiB, kBegin + milliseconds(500));
  display.Update(2 * kMiB, 4 * kMiB, kBegin + milliseconds(510));  // too soon to be worth a redraw
  display.Update(3 * kMiB, 4 * kMiB, kBegin + milliseconds(600));
  display.Finish();
  display.Update(4 * kMiB, 4 * kMiB, kBegin + milliseconds(900));
  std::fflush(file);
  // What was written comes in pieces of any size.
  std::string text;
  while (!text.ends_with("\r\x1b[K")) {
    std::array<char, 4096> piece;
    const ssize_t count = read(terminal, piece.data(), piece.size());
    ASSERT_GT(count, 0) << text;
    text.append(piece.data(), static_cast<size_t>(count));
  }
  std::fclose(file);
  close(terminal);
  EXPECT_THAT(text,
              HasSubstr("\rloading demo [" + std::string(10, '#') + std::string(30, '.') + "]  25 %  1 of 4 MiB"));
  EXPECT_THAT(text, HasSubstr("]  75 %  3 of 4 MiB  0.02 GB/s, 1 s left\x1b[K"));
  EXPECT_THAT(text, Not(HasSubstr(" 50 %")));
  EXPECT_THAT(text, EndsWith("\r\x1b[K"));
}

}  // namespace
}  // namespace optserve
