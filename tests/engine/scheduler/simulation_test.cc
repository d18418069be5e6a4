#include "tests/support/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "engine/model/opt_sizes.h"

// What the scheduling policy does for people, on a virtual clock: OPT-13B on one A100, as vLLM of 2023 was measured.

namespace optserve {
namespace {

constexpr double kHour = 3600.0;

CostModel Opt13bOnA100() {
  return CostModel(
      {.model = *FindOptSize("opt-13b"), .node = *FindNode("a100"), .profile = *FindEngineProfile("vllm-2023")});
}

class Requests {
 public:
  explicit Requests(uint64_t seed) : random_(seed) {}

  double Exponential(double mean) { return std::exponential_distribution(1 / mean)(random_); }
  int32_t Uniform(int32_t min, int32_t max) { return std::uniform_int_distribution(min, max)(random_); }

  // A prompt that is like no other.
  GenerateRequest Make(int32_t prompt_tokens, int32_t max_tokens, const std::string& user, bool batch = false) {
    GenerateRequest request{.id = next_id_++, .max_tokens = max_tokens, .user = user, .batch = batch};
    request.prompt.resize(prompt_tokens);
    for (int32_t& id : request.prompt) id = Uniform(3, 50000);
    request.sampling.seed = request.id;
    return request;
  }

 private:
  std::mt19937_64 random_;
  RequestId next_id_ = 1;
};

// Five people who ask something every 20 seconds or so. Returns the ids of their requests.
std::vector<RequestId> AddInteractiveUsers(Simulation& simulation, Requests& requests, double seconds) {
  std::vector<RequestId> ids;
  for (int user = 0; user < 5; ++user) {
    for (double time = requests.Exponential(20); time < seconds; time += requests.Exponential(20)) {
      GenerateRequest request =
          requests.Make(requests.Uniform(50, 800), requests.Uniform(20, 200), "person " + std::to_string(user));
      ids.push_back(request.id);
      simulation.Arrive(time, std::move(request));
    }
  }
  return ids;
}

std::vector<double> TimesToFirstToken(const Simulation& simulation, const std::vector<RequestId>& ids) {
  std::vector<double> times;
  for (const RequestId id : ids) {
    EXPECT_NE(simulation.record(id).first_token_ns, 0) << "request " << id;
    times.push_back(simulation.record(id).ttft_seconds());
  }
  return times;
}

TEST(SimulationTest, TheSameTrafficGivesTheSameTimesAndTokens) {
  std::vector<uint64_t> runs;
  for (int run = 0; run < 2; ++run) {
    Simulation simulation(Opt13bOnA100(), {});
    Requests requests(7);
    AddInteractiveUsers(simulation, requests, kHour);
    simulation.Run();
    uint64_t sum = 0;
    for (const auto& [id, record] : simulation.records()) {
      sum += id * static_cast<uint64_t>(record.finish_ns) + record.token_hash;
    }
    runs.push_back(sum);
  }
  EXPECT_EQ(runs[0], runs[1]);
}

TEST(SimulationTest, TokensDoNotDependOnTheSchedule) {
  std::vector<std::map<RequestId, uint64_t>> hashes;
  for (const int32_t num_blocks : {0, 150}) {  // all the memory, and constant pressure
    Simulation simulation(Opt13bOnA100(), {.num_blocks = num_blocks});
    Requests requests(7);
    for (int i = 0; i < 200; ++i) simulation.Arrive(0.1 * i, requests.Make(requests.Uniform(10, 900), 100, ""));
    simulation.Run();
    std::map<RequestId, uint64_t>& of_run = hashes.emplace_back();
    for (const auto& [id, record] : simulation.records()) of_run[id] = record.token_hash;
    EXPECT_EQ(simulation.scheduler().stats().preemptions > 0, num_blocks != 0);
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST(SimulationTest, ABatchLaneThatSaturatesDoesNotSlowPeopleDown) {
  std::map<bool, std::vector<double>> times;
  uint64_t batch_tokens = 0;
  for (const bool with_batch : {false, true}) {
    Simulation simulation(Opt13bOnA100(), {});
    Requests requests(11);
    const std::vector<RequestId> people = AddInteractiveUsers(simulation, requests, 4 * kHour);
    std::vector<RequestId> jobs;
    for (int i = 0; with_batch && i < 10000; ++i) {
      GenerateRequest job = requests.Make(requests.Uniform(100, 600), 64, "job", /*batch=*/true);
      jobs.push_back(job.id);
      simulation.Arrive(0, std::move(job));
    }
    simulation.Run(4 * kHour);
    simulation.on_finish = nullptr;
    times[with_batch] = TimesToFirstToken(simulation, people);
    for (const RequestId id : jobs) batch_tokens += simulation.record(id).num_tokens;
  }
  const double alone = Percentile(times[false], 0.99);
  const double beside_batch = Percentile(times[true], 0.99);
  RecordProperty("p99_ttft_alone_ms", static_cast<int>(alone * 1e3));
  RecordProperty("p99_ttft_beside_batch_ms", static_cast<int>(beside_batch * 1e3));
  EXPECT_LT(beside_batch, alone * 1.10) << "from " << alone << " s";
  EXPECT_GT(batch_tokens, 300000) << "and the job gets on";
}

TEST(SimulationTest, AFloodFromOneKeyDoesNotSlowPeopleDownMuch) {
  std::map<bool, std::vector<double>> times;
  for (const bool with_flood : {false, true}) {
    Simulation simulation(Opt13bOnA100(), {.max_num_seqs = 64},
                          [](SchedulerOptions& options) { options.max_num_batched_tokens = 512; });
    Requests requests(13);
    const std::vector<RequestId> people = AddInteractiveUsers(simulation, requests, kHour);
    for (int i = 0; with_flood && i < 10000; ++i) {
      GenerateRequest flood = requests.Make(requests.Uniform(100, 600), 64, "");
      flood.api_key_id = "flood";
      simulation.Arrive(600, std::move(flood));
    }
    simulation.Run(kHour);
    times[with_flood] = TimesToFirstToken(simulation, people);
  }
  // It is no batch work, so people share the machine with it, but they do not stand in its queue.
  EXPECT_LT(Percentile(times[true], 0.99), 3.0);
  EXPECT_GT(Percentile(times[true], 0.99), Percentile(times[false], 0.99));
}

TEST(SimulationTest, DecodingNeverWaitsLongerThanAStepOfPrefill) {
  // One person reads a stream while long prompts keep coming.
  Simulation simulation(Opt13bOnA100(), {}, [](SchedulerOptions& options) { options.max_num_batched_tokens = 512; });
  Requests requests(17);
  GenerateRequest reader = requests.Make(100, 1500, "reader");
  const RequestId id = reader.id;
  simulation.Arrive(0, std::move(reader));
  for (int i = 0; i < 100; ++i) simulation.Arrive(1 + i, requests.Make(1900, 4, "writer"));
  simulation.Run();
  EXPECT_EQ(simulation.record(id).num_tokens, 1500);
  EXPECT_LT(simulation.record(id).longest_gap_seconds, 0.15) << "23 ms and 512 tokens of 0.14 ms, and attention";
}

TEST(SimulationTest, ASharedPrefixMakesTheFirstTokenCome) {
  Simulation simulation(Opt13bOnA100(), {});
  Requests requests(19);
  const GenerateRequest cold = requests.Make(960, 1, "");
  GenerateRequest warm = requests.Make(960, 1, "");
  std::copy_n(cold.prompt.begin(), 900, warm.prompt.begin());
  simulation.Arrive(0, cold);
  simulation.Arrive(10, warm);
  simulation.Run();
  // 896 tokens are found, 64 are computed; what is left is the time of any step.
  const double any_step = Opt13bOnA100().Step(DecodeWork(1, 1)).total();
  EXPECT_LT(simulation.record(warm.id).ttft_seconds() - any_step,
            0.15 * (simulation.record(cold.id).ttft_seconds() - any_step));
}

TEST(SimulationTest, PlanningAheadHidesTheHostsTime) {
  std::map<int32_t, double> seconds;
  std::map<int32_t, std::map<RequestId, uint64_t>> hashes;
  constexpr double kHostSeconds = 0.003;
  for (const int32_t steps_in_flight : {1, 2}) {
    Simulation simulation(Opt13bOnA100(), {});
    simulation.SetHost(kHostSeconds, steps_in_flight);
    Requests requests(29);
    for (int i = 0; i < 64; ++i) simulation.Arrive(0, requests.Make(50, 500, ""));
    simulation.Run();
    seconds[steps_in_flight] = simulation.now_seconds();
    for (const auto& [id, record] : simulation.records()) hashes[steps_in_flight][id] = record.token_hash;
  }
  EXPECT_EQ(hashes[1], hashes[2]);
  EXPECT_GT(seconds[1] - seconds[2], 0.95 * 500 * kHostSeconds) << "nearly all of it, in 500 steps";
}

TEST(SimulationTest, TwoDaysOfTraffic) {
  Simulation simulation(Opt13bOnA100(), {});
  Requests requests(23);
  const std::vector<RequestId> people = AddInteractiveUsers(simulation, requests, 48 * kHour);
  simulation.Run();
  EXPECT_GT(people.size(), 40000);
  EXPECT_GT(simulation.num_steps(), 1000000);
  EXPECT_LT(Percentile(TimesToFirstToken(simulation, people), 0.99), 0.5);
  for (const RequestId id : people) ASSERT_NE(simulation.record(id).finish_ns, 0);
  EXPECT_EQ(simulation.scheduler().blocks().num_used(), 0);
}

}  // namespace
}  // namespace optserve
