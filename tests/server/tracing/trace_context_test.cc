#include "server/tracing/trace_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace optserve {
namespace {

using Fields = std::vector<std::string_view>;

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kSpan = "00f067aa0ba902b7";
const std::string kParent = "00-" + kTrace + "-" + kSpan + "-01";

std::optional<TraceContext> Parse(std::string_view traceparent, const Fields& states = {}) {
  return ParseTraceContext(Fields{traceparent}, states);
}

std::string StateOf(const Fields& states) {
  const auto context = Parse(kParent, states);
  EXPECT_TRUE(context);
  return context ? context->state : "?";
}

TEST(TraceContextTest, ATraceparentIsReadAndWrittenAgain) {
  const auto context = Parse(kParent);
  ASSERT_TRUE(context);
  EXPECT_EQ(Hex(context->trace_id), kTrace);
  EXPECT_EQ(Hex(context->span_id), kSpan);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(FormatTraceparent(*context), kParent);
}

TEST(TraceContextTest, OnlyTheLowestFlagSaysWhetherItIsSampled) {
  const auto sampled = [](std::string_view flags) {
    return Parse(kParent.substr(0, 53) + std::string(flags))->sampled;
  };
  EXPECT_FALSE(sampled("00"));
  EXPECT_FALSE(sampled("02"));
  EXPECT_FALSE(sampled("fe"));
  EXPECT_TRUE(sampled("03"));
  EXPECT_TRUE(sampled("ff"));
}

TEST(TraceContextTest, WhatTheStandardForbidsIsNoContext) {
  const std::string cases[] = {
      "",
      "-",
      kParent.substr(0, 54),
      kParent + " x",
      kParent + "-",
      kParent + "-01",
      "0" + kParent,
      "ff" + kParent.substr(2),
      "0g" + kParent.substr(2),
      "00_" + kParent.substr(3),
      "00-" + kTrace + "_" + kSpan + "-01",
      "00-" + kTrace + "-" + kSpan + "_01",
      "00-" + kTrace + "-" + kSpan + "-0x",
      "00-" + kTrace + "-" + kSpan + "-0A",
      "00-" + std::string(32, '0') + "-" + kSpan + "-01",
      "00-" + kTrace + "-" + std::string(16, '0') + "-01",
      "00-4BF92F3577B34DA6A3CE929D0E0E4736-" + kSpan + "-01",
      "00-" + kTrace + "-00F067AA0BA902B7-01",
      "01" + kParent.substr(2) + "x",
      "01" + kParent.substr(2) + ".01",
  };
  for (const std::string& text : cases) EXPECT_FALSE(Parse(text)) << text;
  EXPECT_FALSE(ParseTraceContext(Fields{}, Fields{}));
  EXPECT_FALSE(ParseTraceContext(Fields{kParent, kParent}, Fields{}));
}

TEST(TraceContextTest, ALaterVersionMayHaveMoreBehindTheFlags) {
  for (const std::string& rest : {std::string(), std::string("-"), std::string("-what-the-future-brings")}) {
    const auto context = Parse("cc" + kParent.substr(2) + rest);
    ASSERT_TRUE(context) << rest;
    EXPECT_EQ(FormatTraceparent(*context), kParent) << "we speak version 00";
  }
}

TEST(TraceContextTest, ATracestateIsCarriedAsItCame) {
  EXPECT_EQ(StateOf({"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"}), "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
  EXPECT_EQ(StateOf({"a=1", " b=2 "}), "a=1,b=2") << "several fields are one list";
  EXPECT_EQ(StateOf({"fw529a3039@dt=FfAf"}), "fw529a3039@dt=FfAf");
  EXPECT_EQ(StateOf({"a=1, ,b=2"}), "a=1, ,b=2") << "empty members may stand";
  EXPECT_EQ(StateOf({"a=x y"}), "a=x y");
  EXPECT_EQ(StateOf({"a*b-c_d/e=1"}), "a*b-c_d/e=1");
}

TEST(TraceContextTest, ATracestateThatIsNoneIsDroppedAlone) {
  const std::string many = [] {
    std::string text;
    for (int i = 0; i < 33; ++i) text += (i > 0 ? ",a" : "a") + std::to_string(i) + "=1";
    return text;
  }();
  const std::string cases[] = {"",
                               "a",
                               "=1",
                               "a=",
                               "A=1",
                               "1=1",
                               "a=b=c",
                               "a=\x01",
                               "a=\x80",
                               "a=1,a=2",
                               "@a=1",
                               "a@=1",
                               "a@1=1",
                               ",",
                               many,
                               "a =1",
                               std::string(257, 'a') + "=1",
                               "a=" + std::string(257, 'x'),
                               "a@" + std::string(15, 'b') + "=1"};
  for (const std::string& text : cases) EXPECT_EQ(StateOf({text}), "") << text;
  EXPECT_EQ(StateOf({"a=1", "a=2"}), "") << "also over several fields";
  const std::string half = "b=" + std::string(254, 'x');
  EXPECT_EQ(StateOf({half}), half);
  EXPECT_EQ(StateOf({half, "c=" + std::string(254, 'x')}), "") << "513 bytes";
}

TEST(TraceContextTest, WhateverComesIsNoneOrAWholeContext) {
  std::mt19937 random(1);
  const std::string letters = "0123456789abcdefABF-,=@ \t\x01\xff";
  int num_contexts = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string parent = kParent;
    for (int edits = static_cast<int>(random() % 3); edits > 0; --edits) {
      parent[random() % parent.size()] = letters[random() % letters.size()];
    }
    if (random() % 4 == 0) parent.resize(random() % 80, 'a');
    std::string state(random() % 12, ' ');
    for (char& c : state) c = letters[random() % letters.size()];
    const auto context = Parse(parent, {state});
    if (!context) continue;
    ++num_contexts;
    const std::string written = FormatTraceparent(*context);
    EXPECT_EQ(parent.substr(3, 50), written.substr(3, 50));
    EXPECT_NE(context->trace_id, TraceId());
    EXPECT_NE(context->span_id, SpanId());
    EXPECT_EQ(Parse(written, {context->state}), context);
  }
  EXPECT_GT(num_contexts, 1000);
}

TEST(TraceContextTest, NewIdsDiffer) {
  EXPECT_NE(NewTraceId(), NewTraceId());
  EXPECT_NE(NewSpanId(), NewSpanId());
}

}  // namespace
}  // namespace optserve
