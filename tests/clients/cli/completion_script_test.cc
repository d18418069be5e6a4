#include "clients/cli/completion_script.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

namespace optserve {
namespace {

using ::testing::HasSubstr;

const std::vector<CommandWords> kCommands = {{.name = "serve", .help = "Serve a model", .flags = {"--port", "--host"}},
                                             {.name = "tokenize", .help = "Turn text into ids", .flags = {"--decode"}}};

// What bash completes `words` to, the last of which is being typed.
std::string Completed(const std::string& words, int count) {
  const std::string command = "bash -c '" + CompletionScript("bash", "optserve", kCommands).value() + "\nCOMP_WORDS=(" +
                              words + "); COMP_CWORD=" + std::to_string(count - 1) +
                              "; _optserve; echo ${COMPREPLY[@]}'";
  // The script quotes its words, which quotes of ours cannot hold.
  std::string escaped = command;
  const size_t begin = 9;
  for (size_t at = begin; (at = escaped.find('\'', at)) != std::string::npos && at + 1 < escaped.size(); at += 4) {
    escaped.replace(at, 1, "'\\''");
  }
  std::FILE* pipe = popen(escaped.c_str(), "r");
  std::string output;
  for (int c = 0; (c = std::fgetc(pipe)) != EOF;) output += static_cast<char>(c);
  EXPECT_EQ(pclose(pipe), 0);
  return output;
}

TEST(CompletionScriptTest, BashCompletesCommandsAndTheirFlags) {
  EXPECT_EQ(Completed("optserve s", 2), "serve\n");
  EXPECT_EQ(Completed("optserve \"\"", 2), "serve tokenize --help --version\n");
  EXPECT_EQ(Completed("optserve serve --", 3), "--port --host\n");
  EXPECT_EQ(Completed("optserve tokenize --d", 3), "--decode\n");
}

TEST(CompletionScriptTest, EachShellHasItsOwn) {
  EXPECT_THAT(CompletionScript("zsh", "optserve", kCommands).value(), HasSubstr("bashcompinit"));
  EXPECT_THAT(CompletionScript("fish", "optserve", kCommands).value(),
              HasSubstr("complete -c optserve -n '__fish_seen_subcommand_from serve' -l port\n"));
  EXPECT_EQ(CompletionScript("powershell", "optserve", kCommands).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace optserve
