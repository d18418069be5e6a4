#include "server/completion/completion_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_engine_client.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

TEST(CompletionServiceTest, Smoke) {
  FakeEngineClient engine({});
  auto tokenizer = Tokenizer::Load(DemoModelPath());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  CompletionService service(engine, *std::move(tokenizer), {.served_model_name = "m"});
  int ready = 0;
  auto call = service.Start({.prompts = {Prompt(std::string("hello world"))}, .max_tokens = 4}, [&] { ++ready; });
  CompletionBatch batch = call->Take();
  EXPECT_TRUE(batch.error.ok()) << batch.error;
  EXPECT_TRUE(batch.done);
  ASSERT_EQ(batch.events.size(), 1u);
  EXPECT_GT(ready, 0);
  EXPECT_NE(batch.events[0].text, "");
}

}  // namespace
}  // namespace optserve
