#include "server/tracing/request_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "server/completion/completion_service.h"
#include "server/tracing/otlp_json.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr int64_t kMs = 1'000'000;

int64_t MonotonicNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<std::string> Names(const std::vector<Span>& spans) {
  std::vector<std::string> names;
  for (const Span& span : spans) names.push_back(span.name);
  return names;
}

template <typename T>
T Fact(const Span& span, std::string_view name) {
  const auto found = std::ranges::find(span.attributes, name, &SpanAttributes::value_type::first);
  if (found == span.attributes.end() || !std::holds_alternative<T>(found->second)) {
    ADD_FAILURE() << span.name << " has no " << name;
    return T();
  }
  return std::get<T>(found->second);
}

bool Has(const Span& span, std::string_view name) {
  return std::ranges::find(span.attributes, name, &SpanAttributes::value_type::first) != span.attributes.end();
}

int64_t Length(const Span& span) { return span.end_ns - span.begin_ns; }

TraceContext Parent(bool sampled = true) {
  TraceContext parent{.sampled = sampled, .state = "a=1"};
  parent.trace_id.fill(3);
  parent.span_id.fill(4);
  return parent;
}

// Completions on an engine that steps by hand; each test is the transport.
class RequestTraceTest : public testing::Test {
 protected:
  struct Transport {
    RequestTracing tracing;
    std::shared_ptr<CompletionCall> call;
  };

  Transport Start(CompletionRequest request, const std::optional<TraceContext>& parent = Parent()) {
    Transport transport{.tracing = tracer_.Begin(parent)};
    transport.call = service_.Start(
        std::move(request), [] {}, transport.tracing.trace);
    return transport;
  }

  static void Finish(Transport& transport, bool failed = false) {
    if (transport.tracing.trace != nullptr) transport.tracing.trace->Finish({{"http.route", "/r"}}, failed);
    transport = {};
  }

  // The one trace that has come, with the whole in front.
  std::vector<Span> Spans() {
    EXPECT_EQ(traces_.size(), 1u);
    return traces_.empty() ? std::vector<Span>(1) : traces_.front();
  }

  static CompletionRequest Ask() {
    CompletionRequest request;
    request.prompts = {std::vector<int32_t>{2, 10, 11}};
    request.max_tokens = 3;
    request.request_id = "req-1";
    return request;
  }

  std::vector<std::vector<Span>> traces_;
  Tracer tracer_{1.0, [this](std::vector<Span> spans) { traces_.push_back(std::move(spans)); }};
  FakeEngineClient engine_{{.pace = FakeEngineClient::Pace::kByHand}};
  CompletionService service_{engine_, std::nullopt, {.served_model_name = "demo"}};
};

TEST_F(RequestTraceTest, APartForEachPhaseAndNoGapBetween) {
  Transport transport = Start(Ask());
  std::this_thread::sleep_for(milliseconds(2));
  while (engine_.Step()) std::this_thread::sleep_for(milliseconds(2));
  EXPECT_TRUE(transport.call->Take().done);
  std::this_thread::sleep_for(milliseconds(2));
  Finish(transport);

  const std::vector<Span> spans = Spans();
  EXPECT_THAT(Names(spans), ElementsAre("text_completion demo", "queue", "prefill", "decode", "prepare", "deliver"));
  const Span& whole = spans[0];
  EXPECT_EQ(whole.context.trace_id, Parent().trace_id);
  EXPECT_EQ(whole.context.state, "a=1");
  EXPECT_EQ(whole.parent, Parent().span_id);
  EXPECT_TRUE(whole.has_remote_parent);
  EXPECT_TRUE(whole.is_server);
  int64_t sum = 0;
  for (size_t i = 1; i < spans.size(); ++i) {
    EXPECT_EQ(spans[i].context.trace_id, whole.context.trace_id);
    EXPECT_EQ(spans[i].parent, whole.context.span_id);
    EXPECT_NE(spans[i].context.span_id, whole.context.span_id);
    EXPECT_FALSE(spans[i].is_server);
    EXPECT_GE(Length(spans[i]), 0);
    sum += Length(spans[i]);
  }
  EXPECT_EQ(sum, Length(whole));
  const int64_t wall =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_LT(std::abs(wall - whole.end_ns), 5'000 * kMs);
  EXPECT_EQ(Fact<int64_t>(whole, "gen_ai.usage.prompt_tokens"), 3);
  EXPECT_EQ(Fact<int64_t>(whole, "gen_ai.usage.completion_tokens"), 3);
  EXPECT_EQ(Fact<int64_t>(whole, "gen_ai.usage.output_tokens"), 3);
  EXPECT_EQ(Fact<std::string>(whole, "gen_ai.request.id"), "req-1");
  EXPECT_EQ(Fact<std::string>(whole, "gen_ai.response.model"), "demo");
  EXPECT_THAT(Fact<std::string>(whole, "gen_ai.response.id"), testing::StartsWith("cmpl-"));
  EXPECT_THAT(Fact<std::vector<std::string>>(whole, "gen_ai.response.finish_reasons"), ElementsAre("length"));
  EXPECT_NEAR(Fact<double>(whole, "gen_ai.latency.e2e"), static_cast<double>(Length(whole)) * 1e-9, 1e-9);
  const double decode = Fact<double>(whole, "gen_ai.latency.time_in_model_decode");
  EXPECT_NEAR(decode, static_cast<double>(Length(spans[3])) * 1e-9, 1e-9);
  EXPECT_GE(decode, 0.004) << "two steps";
  EXPECT_EQ(Fact<std::string>(whole, "http.route"), "/r");
}

// What the engine says of a prompt's times is where the parts' borders are.
TEST_F(RequestTraceTest, PartsBeginWhenTheEngineSaysSo) {
  {
    RequestTrace trace(Parent(), Parent(), [this](std::vector<Span> spans) { traces_.push_back(std::move(spans)); });
    const int64_t start_ns = MonotonicNs();
    trace.Record(Ask(), {.model = "demo",
                         .finish_reasons = {"length"},
                         .prompts = {{.submit_ns = start_ns + 2 * kMs,
                                      .queue_ns = 5 * kMs,
                                      .first_token_ns = start_ns + 10 * kMs,
                                      .end_ns = start_ns + 16 * kMs}}});
    std::this_thread::sleep_for(milliseconds(20));
    trace.Finish({}, false);
  }
  const std::vector<Span> spans = Spans();
  ASSERT_THAT(Names(spans), ElementsAre("text_completion demo", "queue", "prefill", "decode", "prepare", "deliver"));
  EXPECT_EQ(Length(spans[1]), 5 * kMs);
  EXPECT_EQ(Length(spans[2]), 3 * kMs);
  EXPECT_EQ(Length(spans[3]), 6 * kMs);
  EXPECT_NEAR(Fact<double>(spans[0], "gen_ai.latency.time_in_queue"), 0.005, 1e-9);
  EXPECT_NEAR(Fact<double>(spans[0], "gen_ai.latency.time_in_model_prefill"), 0.003, 1e-9);
  EXPECT_NEAR(Fact<double>(spans[0], "gen_ai.latency.time_in_model_decode"), 0.006, 1e-9);
  EXPECT_NEAR(Fact<double>(spans[0], "gen_ai.latency.time_in_model_inference"), 0.009, 1e-9);
  EXPECT_NEAR(Fact<double>(spans[0], "gen_ai.latency.time_to_first_token"),
              static_cast<double>(spans[3].begin_ns - spans[0].begin_ns) * 1e-9, 1e-9);
}

TEST_F(RequestTraceTest, EachPromptHasItsOwnPartsAndEachAnswerItsReason) {
  CompletionRequest request = Ask();
  request.prompts = {std::vector<int32_t>{2, 10}, std::vector<int32_t>{2, 11}};
  request.n = 2;
  Transport transport = Start(std::move(request));
  while (engine_.Step()) {
  }
  transport.call->Take();
  Finish(transport);
  std::map<std::pair<std::string, int64_t>, int> parts;
  for (const Span& span : Spans()) {
    if (Has(span, "optserve.prompt.index")) ++parts[{span.name, Fact<int64_t>(span, "optserve.prompt.index")}];
  }
  EXPECT_EQ(parts.size(), 6u);
  for (const auto& [part, count] : parts) EXPECT_EQ(count, 1) << part.first << part.second;
  const Span whole = Spans()[0];
  EXPECT_EQ(Fact<int64_t>(whole, "gen_ai.usage.num_sequences"), 4);
  EXPECT_EQ(Fact<int64_t>(whole, "gen_ai.usage.completion_tokens"), 12);
}

TEST_F(RequestTraceTest, AClientThatLeavesInTheQueueWasNeverComputed) {
  Transport transport = Start(Ask());
  Finish(transport);
  EXPECT_THAT(traces_, IsEmpty()) << "the engine has not let go of it yet";
  engine_.Step();
  const std::vector<Span> spans = Spans();
  EXPECT_THAT(Names(spans), ElementsAre("text_completion demo", "queue", "prepare"));
  EXPECT_EQ(Fact<std::string>(spans[0], "optserve.finish"), "cancelled");
  EXPECT_FALSE(Has(spans[0], "gen_ai.latency.time_to_first_token"));
}

TEST_F(RequestTraceTest, AClientThatLeavesAmidTokensWasDecoding) {
  Transport transport = Start(Ask());
  engine_.Step();
  engine_.Step();
  transport.call->Take();
  Finish(transport);
  engine_.Step();
  const std::vector<Span> spans = Spans();
  EXPECT_THAT(Names(spans), ElementsAre("text_completion demo", "queue", "prefill", "decode", "prepare"));
  EXPECT_EQ(spans[3].end_ns, spans[0].end_ns) << "the part it was in goes up to the end";
}

TEST_F(RequestTraceTest, ARequestThatIsRefusedIsAWholeWithoutParts) {
  CompletionRequest request = Ask();
  request.model = "another";
  Transport transport = Start(std::move(request));
  EXPECT_FALSE(transport.call->Take().error.ok());
  Finish(transport);
  const std::vector<Span> spans = Spans();
  EXPECT_THAT(Names(spans), ElementsAre("text_completion demo"));
  EXPECT_EQ(Fact<std::string>(spans[0], "optserve.finish"), "error");
}

TEST_F(RequestTraceTest, ARequestThatReachedNoServiceIsAWholeToo) {
  RequestTracing tracing = tracer_.Begin(std::nullopt);
  tracing.trace->Finish({}, /*failed=*/true);
  tracing.trace->Finish({}, /*failed=*/false);  // only the first counts
  tracing.trace.reset();
  const std::vector<Span> spans = Spans();
  EXPECT_THAT(Names(spans), ElementsAre("text_completion"));
  EXPECT_TRUE(spans[0].failed);
  EXPECT_EQ(spans[0].parent, SpanId());
  EXPECT_FALSE(spans[0].has_remote_parent);
}

TEST_F(RequestTraceTest, TheEngineThatDiesIsSeen) {
  Transport transport = Start(Ask());
  engine_.Step();
  engine_.Die(absl::UnavailableError("it is gone"));
  EXPECT_FALSE(transport.call->Take().error.ok());
  Finish(transport, /*failed=*/true);
  const std::vector<Span> spans = Spans();
  EXPECT_TRUE(spans[0].failed);
  EXPECT_THAT(Fact<std::vector<std::string>>(spans[0], "gen_ai.response.finish_reasons"), ElementsAre("error"));
}

TEST_F(RequestTraceTest, NoTextOfARequestIsInASpan) {
  CompletionRequest request = Ask();
  request.stop = {"stop-secret"};
  request.user = "user-secret";
  request.cache_salt = "salt-secret";
  request.api_key_id = "key-secret";
  Transport transport = Start(std::move(request));
  while (engine_.Step()) {
  }
  transport.call->Take();
  Finish(transport);
  EXPECT_THAT(EncodeTraces(Spans(), {}, ""), Not(HasSubstr("secret")));
}

TEST_F(RequestTraceTest, TheParentsFlagDecidesBeforeTheRatio) {
  const Tracer none(0.0, [](std::vector<Span>) {});
  EXPECT_NE(none.Begin(Parent(true)).trace, nullptr);
  EXPECT_EQ(tracer_.Begin(Parent(false)).trace, nullptr);
  const RequestTracing unsampled = tracer_.Begin(Parent(false));
  ASSERT_TRUE(unsampled.context);
  EXPECT_EQ(unsampled.context->trace_id, Parent().trace_id);
  EXPECT_NE(unsampled.context->span_id, Parent().span_id);
  EXPECT_FALSE(unsampled.context->sampled);
}

TEST_F(RequestTraceTest, TheRatioIsThatOfNewTraces) {
  const Tracer quarter(0.25, [](std::vector<Span>) {});
  const Tracer none(0.0, [](std::vector<Span>) {});
  int sampled = 0;
  for (int i = 0; i < 4000; ++i) {
    const RequestTracing tracing = quarter.Begin(std::nullopt);
    EXPECT_EQ(tracing.context->sampled, tracing.trace != nullptr);
    sampled += tracing.context->sampled ? 1 : 0;
    EXPECT_EQ(none.Begin(std::nullopt).trace, nullptr);
    EXPECT_NE(tracer_.Begin(std::nullopt).trace, nullptr);
  }
  EXPECT_GT(sampled, 800);  // 1000 by the odds, with a standard deviation of 27
  EXPECT_LT(sampled, 1200);
}

TEST_F(RequestTraceTest, WithoutATracerWhatCameIsPassedOn) {
  EXPECT_EQ(BeginTrace(nullptr, Parent()).context, Parent());
  EXPECT_EQ(BeginTrace(nullptr, Parent()).trace, nullptr);
  EXPECT_FALSE(BeginTrace(nullptr, std::nullopt).context);
}

// Times that contradict each other, as after a change of engines, still give parts in order.
TEST_F(RequestTraceTest, PartsNeverOverlap) {
  const int64_t now = MonotonicNs();
  RequestTracing tracing = tracer_.Begin(std::nullopt);
  CallRecord record{.id = "c", .model = "m", .finish = "stop", .finish_reasons = {"stop"}};
  record.prompts = {{.submit_ns = now - kMs, .queue_ns = 3600'000 * kMs, .first_token_ns = now, .end_ns = now + 1}};
  tracing.trace->Record({}, std::move(record));
  std::this_thread::sleep_for(milliseconds(2));
  tracing.trace->Finish({}, false);
  tracing.trace.reset();
  const std::vector<Span> spans = Spans();
  int64_t sum = 0;
  for (size_t i = 1; i < spans.size(); ++i) {
    EXPECT_GE(Length(spans[i]), 0) << spans[i].name;
    EXPECT_GE(spans[i].begin_ns, spans[0].begin_ns);
    sum += Length(spans[i]);
  }
  EXPECT_EQ(sum, Length(spans[0]));
}

}  // namespace
}  // namespace optserve
