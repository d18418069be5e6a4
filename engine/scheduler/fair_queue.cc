#include "engine/scheduler/fair_queue.h"

#include <algorithm>

#include "engine/scheduler/sequence.h"
#include "kernels/common/check.h"

namespace optserve {
namespace {

// A request is as urgent as one that came so much earlier, for each step of `priority`: what waits becomes more urgent
// all the time, so no priority can starve another.
constexpr int64_t kNsPerPriority = 10'000'000'000;
constexpr int32_t kMaxPriority = 1'000'000;

// Cost is divided by weights up to this without losing a heavy share's small costs.
constexpr int64_t kServedScale = 64;
constexpr int32_t kMaxWeight = 1000;

int64_t Urgency(const RequestState& request) {
  return request.arrival_ns + kNsPerPriority * std::clamp(request.request.priority, -kMaxPriority, kMaxPriority);
}

// Where two requests part: places and weight of each side, and what it has had.
struct Places {
  int64_t count = 0;
  int64_t weight = 1;
  int64_t served = 0;
};

Places PlacesOf(const RequestState& request, const RequestState& other) {
  const Share* user = request.share;
  if (user == other.share) return {.count = request.num_places};
  const Share* share = user->parent == other.share->parent ? user : user->parent;
  return {.count = share->num_places, .weight = share->weight, .served = share->served};
}

}  // namespace

bool Share::MostUrgent::operator()(const RequestState* a, const RequestState* b) const {
  const int64_t urgency_a = Urgency(*a);
  const int64_t urgency_b = Urgency(*b);
  return urgency_a != urgency_b ? urgency_a < urgency_b : a->arrival < b->arrival;
}

Share& FairQueue::ChildOf(Share& parent, const std::string& name) {
  std::unique_ptr<Share>& child = parent.children[name];
  if (child == nullptr) {
    child = std::make_unique<Share>();
    child->parent = &parent;
    child->id = next_id_++;
    child->name = name;
  }
  return *child;
}

void FairQueue::Push(RequestState& request) {
  Share& key = ChildOf(root_, request.request.api_key_id);
  key.weight = std::clamp(request.request.share_weight, 1, kMaxWeight);
  Share& user = ChildOf(key, request.request.user);
  request.share = &user;
  user.requests.insert(&request);
  for (Share* share = &user; share != nullptr; share = share->parent) {
    Share* parent = share->parent;
    if (share->num_requests++ == 0 && parent != nullptr) parent->idle_children.erase(share);
    if (share->num_waiting++ == 0 && parent != nullptr) {
      share->served = std::max(share->served, parent->floor);
      parent->waiting_children.insert(share);
    }
  }
}

RequestState* FairQueue::Head() {
  if (size() == 0) return nullptr;
  SettleAll();
  const Share* share = &root_;
  while (share->requests.empty()) share = *share->waiting_children.begin();
  return *share->requests.begin();
}

void FairQueue::Start(RequestState& request) {
  SettleAll();
  for (Share* share = request.share; share->parent != nullptr; share = share->parent) {
    share->parent->floor = std::max(share->parent->floor, share->served);
  }
  Remove(request);
  for (Share* share = request.share->parent; share != nullptr; share = share->parent) RaiseFloor(*share);
}

void FairQueue::Remove(RequestState& request) {
  OPTSERVE_CHECK(request.share->requests.erase(&request) == 1) << "request " << request.request.id;
  for (Share* share = request.share; share != nullptr; share = share->parent) {
    if (--share->num_waiting == 0 && share->parent != nullptr) share->parent->waiting_children.erase(share);
  }
}

void FairQueue::Forget(RequestState& request) {
  SettleAll();
  Share* share = request.share;
  request.share = nullptr;
  while (share != nullptr) {
    Share* parent = share->parent;
    if (--share->num_requests == 0 && parent != nullptr) Retire(*share);
    share = parent;
  }
}

void FairQueue::Retire(Share& share) {
  Share& parent = *share.parent;
  if (share.served > parent.floor) {
    parent.idle_children.insert(&share);  // it must not come back as if it had had nothing
  } else {
    parent.children.erase(parent.children.find(share.name));
  }
}

void FairQueue::RaiseFloor(Share& share) {
  while (!share.idle_children.empty() && (*share.idle_children.begin())->served <= share.floor) {
    Share* idle = *share.idle_children.begin();
    share.idle_children.erase(share.idle_children.begin());
    share.children.erase(share.children.find(idle->name));
  }
}

void FairQueue::Charge(const RequestState& request, int64_t cost) {
  Share& share = *request.share;
  if (share.uncounted == 0) charged_.push_back(&share);
  share.uncounted += cost;
}

void FairQueue::SettleAll() {
  for (Share* share : charged_) Settle(*share);
  charged_.clear();
}

void FairQueue::Settle(Share& charged) {
  const int64_t cost = charged.uncounted * kServedScale;
  charged.uncounted = 0;
  for (Share* share = &charged; share->parent != nullptr; share = share->parent) {
    if (share->num_waiting > 0) share->parent->waiting_children.erase(share);
    share->served += cost / share->weight;
    if (share->num_waiting > 0) share->parent->waiting_children.insert(share);
  }
}

void FairQueue::AddPlaces(RequestState& request, int32_t count) {
  request.num_places += count;
  for (Share* share = request.share; share != nullptr; share = share->parent) share->num_places += count;
}

bool FairQueue::MayTakePlace(const RequestState& taker, const RequestState& giver) {
  const Places to = PlacesOf(taker, giver);
  const Places from = PlacesOf(giver, taker);
  return &taker != &giver && to.served <= from.served && (to.count + 1) * from.weight <= (from.count - 1) * to.weight;
}

bool FairQueue::HasFewerPlaces(const RequestState& a, const RequestState& b) {
  const Places of_a = PlacesOf(a, b);
  const Places of_b = PlacesOf(b, a);
  return &a != &b && (of_a.count + 1) * of_b.weight < (of_b.count + 1) * of_a.weight;
}

const void* FairQueue::PartOf(const RequestState& request, const RequestState& other) {
  if (request.share == other.share) return &request;
  return request.share->parent == other.share->parent ? request.share : request.share->parent;
}

size_t FairQueue::num_shares() const {
  size_t count = root_.children.size();
  for (const auto& [name, key] : root_.children) count += key->children.size();
  return count;
}

}  // namespace optserve
