#include "server/replicas/router.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "engine/util/mix.h"

namespace optserve {
namespace {

constexpr size_t kPieceTokens = 64;
constexpr size_t kMaxPieces = 1 << 16;

// How much more work an engine may have for each prompt token that it need not compute.
constexpr int64_t kTokenOfPrefix = 4;

int64_t Work(const GenerateRequest& request) {
  return std::ssize(request.prompt) + int64_t{request.max_tokens} * request.num_choices;
}

}  // namespace

Router::Router(int32_t num_replicas)
    : loads_(static_cast<size_t>(num_replicas)), ages_(static_cast<size_t>(num_replicas)) {}

int32_t Router::Pick(const GenerateRequest& request, const std::vector<bool>& available) {
  const std::vector<uint64_t> hashes = loads_.size() > 1 ? PieceHashes(request) : std::vector<uint64_t>();
  std::vector<int64_t> known(loads_.size());  // pieces from the beginning on
  for (size_t i = 0; i < hashes.size(); ++i) {
    const auto found = piece_of_hash_.find(hashes[i]);
    if (found == piece_of_hash_.end()) break;
    const Piece& piece = *found->second;
    const auto replica = static_cast<size_t>(piece.replica);
    if (piece.age != ages_[replica]) break;
    known[replica] = static_cast<int64_t>(i) + 1;
  }
  const auto of_key = loads_of_keys_.find(request.api_key_id);
  int32_t best = -1;
  int64_t best_score = std::numeric_limits<int64_t>::max();
  for (size_t replica = 0; replica < loads_.size(); ++replica) {
    if (!available[replica]) continue;
    const int64_t own = of_key == loads_of_keys_.end() ? 0 : of_key->second[replica];
    const int64_t score = loads_[replica] + own - kTokenOfPrefix * static_cast<int64_t>(kPieceTokens) * known[replica];
    if (score >= best_score) continue;
    best = static_cast<int32_t>(replica);
    best_score = score;
  }
  if (best >= 0) Remember(hashes, best);
  return best;
}

void Router::Add(int32_t replica, const GenerateRequest& request) {
  loads_[static_cast<size_t>(replica)] += Work(request);
  std::vector<int64_t>& own = loads_of_keys_[request.api_key_id];
  own.resize(loads_.size());
  own[static_cast<size_t>(replica)] += Work(request);
}

void Router::Remove(int32_t replica, const GenerateRequest& request) {
  loads_[static_cast<size_t>(replica)] -= Work(request);
  const auto own = loads_of_keys_.find(request.api_key_id);
  own->second[static_cast<size_t>(replica)] -= Work(request);
  if (std::ranges::all_of(own->second, [](int64_t load) { return load == 0; })) loads_of_keys_.erase(own);
}

std::vector<uint64_t> Router::PieceHashes(const GenerateRequest& request) const {
  // Engines share prefixes by key and salt; that this also parts keys whose engine shares everything costs little.
  uint64_t hash = Mix(std::hash<std::string>()(request.api_key_id), std::hash<std::string>()(request.cache_salt));
  std::vector<uint64_t> hashes;
  for (size_t end = kPieceTokens; end <= request.prompt.size(); end += kPieceTokens) {
    for (size_t i = end - kPieceTokens; i < end; ++i) hash = Mix(hash, static_cast<uint64_t>(request.prompt[i]));
    hashes.push_back(hash);
  }
  return hashes;
}

void Router::Remember(const std::vector<uint64_t>& hashes, int32_t replica) {
  const uint32_t age = ages_[static_cast<size_t>(replica)];
  for (const uint64_t hash : hashes) {
    if (const auto found = piece_of_hash_.find(hash); found != piece_of_hash_.end()) {
      found->second->replica = replica;
      found->second->age = age;
      pieces_.splice(pieces_.end(), pieces_, found->second);
      continue;
    }
    if (pieces_.size() == kMaxPieces) {
      piece_of_hash_.erase(pieces_.front().hash);
      pieces_.pop_front();
    }
    piece_of_hash_[hash] = pieces_.insert(pieces_.end(), {.hash = hash, .replica = replica, .age = age});
  }
}

}  // namespace optserve
