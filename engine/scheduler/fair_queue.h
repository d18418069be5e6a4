#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace optserve {

struct RequestState;

// What a share of the machine has had: an API key's, or a user's within a key.
struct Share {
  Share* parent = nullptr;  // nullptr: the machine itself
  uint64_t id = 0;          // order of creation, to break ties
  std::string name;
  int32_t weight = 1;
  int64_t served = 0;     // cost / weight
  int64_t uncounted = 0;  // cost that is not in `served` yet
  int32_t num_requests = 0;
  int32_t num_waiting = 0;
  int32_t num_places = 0;  // its sequences that run

  struct LeastServed {
    bool operator()(const Share* a, const Share* b) const {
      return a->served != b->served ? a->served < b->served : a->id < b->id;
    }
  };
  struct MostUrgent {
    bool operator()(const RequestState* a, const RequestState* b) const;
  };

  // Of a share with shares below it. `floor` is the `served` of the one that started last: who comes back after a pause
  // starts there and has saved nothing up.
  std::unordered_map<std::string, std::unique_ptr<Share>> children;
  std::set<Share*, LeastServed> waiting_children;
  std::set<Share*, LeastServed> idle_children;  // without requests; remembered while above the floor
  int64_t floor = 0;

  std::set<RequestState*, MostUrgent> requests;  // of a user: those that wait
};

// The order in which requests start: the API key that has had least of its share comes first, within a key the user,
// and within a user the most urgent request. A key's requests cannot delay another key's by being many.
//
// What a share has had is what its requests cost (RequestCost), divided by the key's weight: start-time fair queueing
// (Goyal et al. 1996) with the real cost of serving, token by token (Sheng et al. 2024, "Fairness in Serving Large
// Language Models").
//
// It also knows how many places in the batch each share has, so that the scheduler can even them out: however many
// answers one request has, it holds nobody else out.
//
// Push, Remove and Head take O(log n); Charge O(1), and Head then O(log n) for each share that was charged.
class FairQueue {
 public:
  FairQueue() = default;
  FairQueue(const FairQueue&) = delete;  // shares point at each other
  FairQueue& operator=(const FairQueue&) = delete;

  int32_t size() const { return root_.num_waiting; }

  // Sets request.share. The request stays known to its share until Forget.
  void Push(RequestState& request);
  // The request that is to start next; nullptr: none waits.
  RequestState* Head();
  // Takes a request out that waits: it starts, or has ended.
  void Start(RequestState& request);
  void Remove(RequestState& request);
  // A request that no longer waits has ended.
  void Forget(RequestState& request);

  // The request has been served for `cost`.
  void Charge(const RequestState& request, int64_t cost);

  // So many more of the request's sequences run, or fewer.
  static void AddPlaces(RequestState& request, int32_t count);

  // Who has fewer of the places in the batch, measured where the two part: by key and its weight, within a key by user,
  // within a user by request. Moving a place from `giver` to `taker` makes their places more even, or no less, and
  // `taker`'s share has not had more service.
  static bool MayTakePlace(const RequestState& taker, const RequestState& giver);
  // With one more place each, `a` has fewer than `b`.
  static bool HasFewerPlaces(const RequestState& a, const RequestState& b);
  // What `request` belongs to at the level where it parts from `other`: a key, a user, or the request itself.
  static const void* PartOf(const RequestState& request, const RequestState& other);

  // Keys and users that are remembered, for tests.
  size_t num_shares() const;

 private:
  Share& ChildOf(Share& parent, const std::string& name);
  void Settle(Share& share);
  void SettleAll();
  void Retire(Share& share);
  static void RaiseFloor(Share& share);

  Share root_;
  std::vector<Share*> charged_;  // with uncounted cost
  uint64_t next_id_ = 1;
};

// The cost of computing `num_tokens` tokens of a sequence behind `num_cached`: for each token one unit for its share of
// the products with the weights, and 1 / kCostContext for each token it attends to. In 1 / kCostContext units, so that
// it is exact.
inline constexpr int64_t kCostContext = 512;
constexpr int64_t RequestCost(int64_t num_tokens, int64_t num_cached) {
  return num_tokens * (kCostContext + num_cached) + num_tokens * (num_tokens + 1) / 2;
}

}  // namespace optserve
