#include "engine/util/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// What `write` makes a Log of this format write.
template <typename Function>
std::string Written(LogFormat format, const Function& write) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  write(Log(format, out));
  std::fclose(out);
  std::string written(text, size);
  std::free(text);
  return written;
}

TEST(LogTest, TextIsOneLineOfKeysAndValues) {
  EXPECT_THAT(Written(LogFormat::kText,
                      [](const Log& log) {
                        log.Info("engine_ready", {{"seconds", 0.25}, {"pid", 7}, {"model", "demo"}, {"cuda", false}});
                      }),
              MatchesRegex("20[0-9-]+T[0-9:.]+Z info engine_ready seconds=0.25 pid=7 model=demo cuda=false\n"));
}

TEST(LogTest, JsonIsOneObjectALine) {
  EXPECT_THAT(Written(LogFormat::kJson,
                      [](const Log& log) {
                        log.Error("engine_dead", {{"signal", 9}, {"why", "killed"}, {"resumed", true}});
                      }),
              MatchesRegex(R"(\{"time":"20[0-9-]+T[0-9:.]+Z","level":"error","event":"engine_dead","signal":9,)"
                           R"("why":"killed","resumed":true\}
)"));
}

TEST(LogTest, NoValueCanEndItsLineOrForgeAnotherKey) {
  const auto write = [](const Log& log) {
    log.Warning("odd", {{"user", "a\nb c=\"d\" \\ \x1b[0m"}, {"empty", ""}, {"text", "12"}});
  };
  EXPECT_THAT(Written(LogFormat::kText, write),
              MatchesRegex(R"(.* warning odd user="a\\nb c=\\"d\\" \\\\ \\u001b\[0m" empty="" text=12
)"));
  EXPECT_THAT(Written(LogFormat::kJson, write),
              MatchesRegex(R"(.*"user":"a\\nb c=\\"d\\" \\\\ \\u001b\[0m","empty":"","text":"12"\}
)"));
}

TEST(LogTest, BytesThatAreNoTextBecomeReplacementCharacters) {
  const auto write = [](const Log& log) { log.Warning("odd", {{"user", "\xc3\xa9 \xff \xed\xa0\x80 \xc3"}}); };
  const char* shown = "\"\xc3\xa9 \xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\"";
  EXPECT_THAT(Written(LogFormat::kJson, write), HasSubstr(shown));
  EXPECT_THAT(Written(LogFormat::kText, write), HasSubstr(shown));
}

TEST(LogTest, JsonHasNoNotANumber) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(Written(LogFormat::kJson,
                      [&](const Log& log) {
                        log.Info("odd", {{"a", nan}, {"b", -infinity}, {"c", 1e-9}});
                      }),
              MatchesRegex(R"(.*"a":"nan","b":"-inf","c":1e-09\}
)"));
}

}  // namespace
}  // namespace optserve
