#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/process_main.h"
#include "engine/request.h"
#include "tests/support/fake_engine_client.h"
#include "tests/support/recorder.h"

// For tests that start engine processes: their own binary, with an engine that has no model. Token i of an answer is a
// hash of its prompt, seed, choice and i, so whatever goes wrong on the way says something else.

namespace optserve {

inline GenerateRequest HashedRequest(RequestId id, int32_t max_tokens, int32_t num_choices = 1) {
  return {.id = id,
          .prompt = {2, static_cast<int32_t>(10 + id)},
          .max_tokens = max_tokens,
          .sampling = {.seed = 7},
          .num_choices = num_choices};
}

// All tokens of all answers are there, once each.
inline void ExpectUndisturbed(const Recorder& sink, const GenerateRequest& request) {
  for (int32_t choice = 0; choice < request.num_choices; ++choice) {
    const std::vector<int32_t> tokens = sink.tokens(request.id, choice);
    ASSERT_EQ(tokens.size(), static_cast<size_t>(request.max_tokens)) << "choice " << choice;
    for (int32_t i = 0; i < request.max_tokens; ++i) {
      ASSERT_EQ(tokens[static_cast<size_t>(i)], FakeEngineClient::HashedTokens()(request, choice, i))
          << "choice " << choice << " token " << i;
    }
    EXPECT_EQ(sink.finish(request.id, choice), FinishReason::kLength);
  }
}

// main() of such a test: the engine process if it was started as one, else the tests.
inline int RunTestsOrEngine(int argc, char** argv, const EngineStarter& start) {
  if (argc == 4 && std::string(argv[1]) == "engine-process") {
    std::_Exit(RunEngineProcess(std::atoi(argv[3]), start));
  }
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace optserve
