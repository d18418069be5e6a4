#include "server/tracing/otlp_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "nlohmann/json.hpp"

namespace optserve {
namespace {

Span SpanOf(uint8_t id) {
  Span span{.name = "n"};
  span.context.trace_id.back() = 7;
  span.context.span_id.back() = id;
  span.context.sampled = true;
  return span;
}

TEST(OtlpJsonTest, ASpanIsAsOtlpPrintsIt) {
  Span span = SpanOf(1);
  span.context.state = "a=1";
  span.parent.back() = 2;
  span.has_remote_parent = true;
  span.is_server = true;
  span.name = "say \"hi\"\n\xff";
  span.begin_ns = 1'700'000'000'123'456'789;
  span.end_ns = 1'700'000'001'000'000'000;
  span.failed = true;
  span.attributes = {{"i", int64_t{-5}},
                     {"d", 0.25},
                     {"b", true},
                     {"s", std::string("x")},
                     {"l", std::vector<std::string>{"stop", "length"}},
                     {"inf", std::numeric_limits<double>::infinity()}};
  const std::vector<Span> spans = {span};
  EXPECT_EQ(nlohmann::json::parse(EncodeTraces(spans, {{"service.name", std::string("o")}}, "1.2")),
            nlohmann::json::parse(R"({"resourceSpans":[{
      "resource":{"attributes":[{"key":"service.name","value":{"stringValue":"o"}}]},
      "scopeSpans":[{"scope":{"name":"optserve","version":"1.2"},"spans":[{
        "traceId":"00000000000000000000000000000007","spanId":"0000000000000001","parentSpanId":"0000000000000002",
        "traceState":"a=1","name":"say \"hi\"\n\ufffd","flags":769,"kind":2,
        "startTimeUnixNano":"1700000000123456789","endTimeUnixNano":"1700000001000000000",
        "attributes":[
          {"key":"i","value":{"intValue":"-5"}},{"key":"d","value":{"doubleValue":0.25}},
          {"key":"b","value":{"boolValue":true}},{"key":"s","value":{"stringValue":"x"}},
          {"key":"l","value":{"arrayValue":{"values":[{"stringValue":"stop"},{"stringValue":"length"}]}}},
          {"key":"inf","value":{"stringValue":"inf"}}],
        "status":{"code":2}}]}]}]})"));
}

TEST(OtlpJsonTest, WhatASpanHasNotIsNotThere) {
  const std::vector<Span> spans = {SpanOf(1), SpanOf(2)};
  const auto json = nlohmann::json::parse(EncodeTraces(spans, {}, ""));
  const nlohmann::json& printed = json["resourceSpans"][0]["scopeSpans"][0]["spans"];
  ASSERT_EQ(printed.size(), 2u);
  for (const char* name : {"parentSpanId", "traceState", "status"}) EXPECT_FALSE(printed[0].contains(name)) << name;
  EXPECT_EQ(printed[0]["flags"], 257);
  EXPECT_EQ(printed[0]["kind"], 1);
  EXPECT_EQ(printed[1]["spanId"], "0000000000000002");
}

TEST(OtlpJsonTest, TheAnswerSaysHowManyWereRejected) {
  EXPECT_EQ(RejectedSpans(""), 0);
  EXPECT_EQ(RejectedSpans("{}"), 0);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{}})"), 0);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":null,"x":[1]})"), 0);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}})"), 3);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"errorMessage":"no","rejectedSpans":4}})"), 4);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"rejectedSpans":"-3"}})"), 0);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"rejectedSpans":[5]}})"), 0);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"rejectedSpans":"3")"), 0);
  EXPECT_EQ(RejectedSpans("<html>"), 0);
}

}  // namespace
}  // namespace optserve
