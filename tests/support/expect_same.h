#pragma once

#include <gtest/gtest.h>

#include "engine/request.h"

namespace optserve {

// To the bit.
inline void ExpectSame(const TokenScore& a, const TokenScore& b) {
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.logprob, b.logprob);
  ASSERT_EQ(a.top.size(), b.top.size());
  for (size_t i = 0; i < a.top.size(); ++i) {
    EXPECT_EQ(a.top[i].id, b.top[i].id);
    EXPECT_EQ(a.top[i].logprob, b.top[i].logprob);
  }
}

}  // namespace optserve
