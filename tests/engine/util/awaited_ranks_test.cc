#include "engine/util/awaited_ranks.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>

namespace optserve {
namespace {

TEST(AwaitedRanksTest, AnotherProcessSeesThemAlsoWhenTheFirstWasKilled) {
  const std::unique_ptr<AwaitedRanks> ours = AwaitedRanks::Make().value();
  EXPECT_EQ(ours->Names(), "");
  const pid_t child = fork();
  if (child == 0) {
    const std::unique_ptr<AwaitedRanks> theirs = AwaitedRanks::Open(dup(ours->fd())).value();
    theirs->SetName(0, "rank 0 on host a", false);
    theirs->SetName(1, "rank 1 on host b", true);
    theirs->SetName(1023, "rank 1023 on host z", false);
    for (const int rank : {0, 1, 1023}) theirs->Set(rank, true);
    theirs->Set(0, false);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(ours->Names(), "rank 1 on host b, rank 1023 on host z");
  EXPECT_EQ(ours->Elsewhere(), "rank 1 on host b");
  EXPECT_FALSE(ours->IsAwaited(0));
  EXPECT_TRUE(ours->IsAwaited(1));
}

TEST(AwaitedRanksTest, ALongNameIsCut) {
  const std::unique_ptr<AwaitedRanks> ranks = AwaitedRanks::Make().value();
  ranks->SetName(2, std::string(500, 'x'), false);
  ranks->Set(2, true);
  EXPECT_EQ(ranks->Names(), std::string(125, 'x'));
}

TEST(AwaitedRanksTest, WhatIsNoMemoryIsAnError) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(AwaitedRanks::Open(ends[0]).status().code(), absl::StatusCode::kInternal);
  close(ends[1]);
}

}  // namespace
}  // namespace optserve
