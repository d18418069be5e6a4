#include "server/tracing/span_exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <future>
#include <string>

#include "engine/util/metrics.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// A collector that does what the test says, and remembers the names of what it took.
class Collector {
 public:
  SpanExporter::Send AsSend() {
    return [this](const std::string& body, steady_clock::time_point, std::stop_token) {
      const std::lock_guard lock(mu_);
      ++num_attempts_;
      times_.push_back(steady_clock::now());
      const Delivery delivery = next_;
      if (delivery.result != Delivery::Result::kAccepted) return delivery;
      batches_.push_back(0);
      const nlohmann::json json = nlohmann::json::parse(body);
      for (const nlohmann::json& span : json["resourceSpans"][0]["scopeSpans"][0]["spans"]) {
        names_.push_back(span["name"]);
        ++batches_.back();
      }
      return delivery;
    };
  }

  void Answer(Delivery delivery) {
    const std::lock_guard lock(mu_);
    next_ = std::move(delivery);
  }
  int num_attempts() {
    const std::lock_guard lock(mu_);
    return num_attempts_;
  }
  std::vector<steady_clock::time_point> times() {
    const std::lock_guard lock(mu_);
    return times_;
  }
  std::vector<std::string> names() {
    const std::lock_guard lock(mu_);
    return names_;
  }
  std::vector<int> batches() {
    const std::lock_guard lock(mu_);
    return batches_;
  }

 private:
  std::mutex mu_;
  Delivery next_;
  int num_attempts_ = 0;
  std::vector<steady_clock::time_point> times_;  // of the attempts
  std::vector<std::string> names_;
  std::vector<int> batches_;
};

class SpanExporterTest : public testing::Test {
 protected:
  SpanExporterTest() {
    options_.batch_time = milliseconds(5);
    options_.first_pause = milliseconds(1);
    options_.max_pause = milliseconds(4);
    options_.metrics = &metrics_;
    options_.log = &log_;
  }

  static std::vector<Span> Request(const std::string& name, int num_spans = 1) {
    std::vector<Span> spans(num_spans);
    for (Span& span : spans) span.name = name;
    return spans;
  }

  static void WaitFor(const std::function<bool()>& holds) {
    for (int i = 0; i < 2000 && !holds(); ++i) std::this_thread::sleep_for(milliseconds(2));
    EXPECT_TRUE(holds());
  }

  int Counted(const std::string& what) {
    const std::string text = metrics_.Render({}, true);
    const std::string line = "\noptserve_trace_spans_" + what + "_total ";
    return std::stoi(text.substr(text.find(line) + line.size()));
  }

  std::string Logged() {
    std::fflush(log_file_);
    std::rewind(log_file_);
    std::string text(65536, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), log_file_));
    return text;
  }

  static size_t Count(std::string_view text, std::string_view word) {
    size_t count = 0;
    for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) ++count;
    return count;
  }

  std::FILE* log_file_ = std::tmpfile();
  Log log_{LogFormat::kText, log_file_};
  Metrics metrics_{"1"};
  Collector collector_;
  SpanExporter::Options options_;
  const Delivery down_{.result = Delivery::Result::kRetry, .why = "connection refused"};
};

TEST_F(SpanExporterTest, WhatIsExportedArrives) {
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a", 2));
  WaitFor([&] { return collector_.names().size() == 2; });
  WaitFor([&] { return Counted("exported") == 2; });
  EXPECT_EQ(Counted("dropped"), 0);
  EXPECT_EQ(Count(Logged(), "info trace_collector_answers"), 1u);
}

TEST_F(SpanExporterTest, SpansWaitForOthersAndTheEndDoesNot) {
  options_.batch_time = std::chrono::hours(1);
  {
    SpanExporter exporter(options_, collector_.AsSend());
    exporter.Export(Request("a"));
    exporter.Export(Request("b"));
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_EQ(collector_.num_attempts(), 0);
  }
  EXPECT_THAT(collector_.batches(), ElementsAre(2));
}

TEST_F(SpanExporterTest, ABatchThatIsFullGoesAtOnceAndRequestsStayTogether) {
  options_.batch_time = std::chrono::hours(1);
  options_.max_batch = 4;
  {
    SpanExporter exporter(options_, collector_.AsSend());
    exporter.Export(Request("a", 3));
    exporter.Export(Request("b", 3));
    WaitFor([&] { return collector_.num_attempts() == 1; });
    exporter.Export(Request("c", 9));
  }
  EXPECT_THAT(collector_.batches(), ElementsAre(3, 3, 9));
}

TEST_F(SpanExporterTest, ACollectorThatIsDownIsTriedAgainAndTheLogSaysSoOnce) {
  collector_.Answer(down_);
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a"));
  WaitFor([&] { return collector_.num_attempts() > 3; });
  EXPECT_EQ(Count(Logged(), "warning trace_collector_fails why=\"connection refused\""), 1u);
  EXPECT_THAT(Logged(), Not(HasSubstr("trace_collector_answers")));
  collector_.Answer({});
  WaitFor([&] { return collector_.names().size() == 1; });
  WaitFor([&] { return Counted("exported") == 1; });
  EXPECT_EQ(Counted("dropped"), 0);
  EXPECT_EQ(Count(Logged(), "trace_collector_answers spans_dropped=0"), 1u);
}

TEST_F(SpanExporterTest, PausesDouble) {
  collector_.Answer(down_);
  options_.first_pause = milliseconds(10);
  options_.max_pause = milliseconds(80);
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a"));
  WaitFor([&] { return collector_.num_attempts() > 4; });
  const std::vector<steady_clock::time_point> times = collector_.times();
  for (const int i : {0, 1, 2, 3}) EXPECT_GE(times[i + 1] - times[i], milliseconds(10 << i)) << i;
  collector_.Answer({});
}

TEST_F(SpanExporterTest, TheQueueIsBoundedAndSaysWhatItLost) {
  collector_.Answer(down_);
  options_.max_waiting = 3;
  options_.max_batch = 2;
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a", 2));
  WaitFor([&] { return collector_.num_attempts() > 0; });  // no longer in the queue
  exporter.Export(Request("b", 2));
  exporter.Export(Request("c", 2));  // all of a request or nothing
  exporter.Export(Request("d"));
  exporter.Export(Request("e"));
  EXPECT_EQ(Counted("dropped"), 3);
  collector_.Answer({});
  WaitFor([&] { return collector_.names().size() == 5; });
  EXPECT_THAT(collector_.names(), ElementsAre("a", "a", "b", "b", "d"));
  WaitFor([&] { return Count(Logged(), "trace_collector_answers spans_dropped=3") == 1; });
}

TEST_F(SpanExporterTest, WhatIsRefusedIsNotSentAgain) {
  collector_.Answer({.result = Delivery::Result::kRefused, .why = "it answered 500"});
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a", 2));
  WaitFor([&] { return Counted("dropped") == 2; });
  EXPECT_EQ(collector_.num_attempts(), 1);
  EXPECT_THAT(Logged(), HasSubstr("it answered 500"));
}

TEST_F(SpanExporterTest, ABatchIsGivenUpAtLast) {
  collector_.Answer(down_);
  options_.give_up_after = milliseconds(10);
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a"));
  WaitFor([&] { return Counted("dropped") == 1; });
  EXPECT_GT(collector_.num_attempts(), 1);
}

TEST_F(SpanExporterTest, SpansThatTheCollectorRejectsAreDropped) {
  collector_.Answer({.num_rejected = 2});
  SpanExporter exporter(options_, collector_.AsSend());
  exporter.Export(Request("a", 3));
  WaitFor([&] { return Counted("dropped") == 2; });
  EXPECT_EQ(Counted("exported"), 1);
}

// A collector that takes the connection and says nothing.
TEST_F(SpanExporterTest, TheEndWaitsForFlushTimeAtMost) {
  options_.flush_time = milliseconds(100);
  std::atomic<bool> was_stopped = false;
  const auto hang = [&](const std::string&, steady_clock::time_point deadline, const std::stop_token& stop) {
    while (steady_clock::now() < deadline && !stop.stop_requested()) std::this_thread::sleep_for(milliseconds(1));
    was_stopped = was_stopped || stop.stop_requested();
    return down_;
  };
  steady_clock::time_point begin;
  {
    SpanExporter exporter(options_, hang);
    for (int i = 0; i < 3; ++i) exporter.Export(Request("a", 512));
    std::this_thread::sleep_for(milliseconds(20));
    begin = steady_clock::now();
  }
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_TRUE(was_stopped) << "what was sent had 10 s";
  EXPECT_EQ(Counted("dropped"), 3 * 512);
  EXPECT_THAT(Logged(), HasSubstr("trace_spans_dropped spans=1536"));
}

TEST_F(SpanExporterTest, NobodyWaitsForTheCollector) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  SpanExporter exporter(options_, [released](const std::string&, steady_clock::time_point, const std::stop_token&) {
    released.wait();
    return Delivery();
  });
  const auto begin = steady_clock::now();
  for (int i = 0; i < 1000; ++i) exporter.Export(Request("a", 20));
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(1));
  EXPECT_GT(Counted("dropped"), 0) << "20000 spans are more than wait";
  release.set_value();
}

}  // namespace
}  // namespace optserve
