#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/request.h"

namespace optserve {

// Which of several engines a request goes to: where its prompt's beginning was computed before, unless that engine has
// much more to do than another.
//
// The score of an engine is the work that it has, in tokens, plus the work it has for the request's own API key, minus
// what the prompt's known beginning is worth; the lowest wins. Because each key's own work counts, each key's requests
// spread evenly over the engines, and so the shares that an engine's scheduler gives to keys are those of the whole.
//
// No threads, no clock. Memory is bounded: the last 65536 pieces of prompts are remembered.
class Router {
 public:
  explicit Router(int32_t num_replicas);

  // The engine for `request` among those that are `available`; -1 if none is. Remembers the prompt as that engine's.
  int32_t Pick(const GenerateRequest& request, const std::vector<bool>& available);

  // The work of a request, from when it is sent to an engine until it has left it.
  void Add(int32_t replica, const GenerateRequest& request);
  void Remove(int32_t replica, const GenerateRequest& request);

  // The engine has lost its cache. At once, however many prompts are remembered.
  void Forget(int32_t replica) { ++ages_[static_cast<size_t>(replica)]; }

  int64_t load(int32_t replica) const { return loads_[static_cast<size_t>(replica)]; }  // tokens

 private:
  struct Piece {
    uint64_t hash = 0;
    int32_t replica = 0;
    uint32_t age = 0;  // of that engine when it computed it
  };

  std::vector<uint64_t> PieceHashes(const GenerateRequest& request) const;
  void Remember(const std::vector<uint64_t>& hashes, int32_t replica);

  std::vector<int64_t> loads_;                                           // by replica
  std::vector<uint32_t> ages_;                                           // by replica: how often it was forgotten
  std::unordered_map<std::string, std::vector<int64_t>> loads_of_keys_;  // keys with work only
  std::list<Piece> pieces_;                                              // the least recently used first
  std::unordered_map<uint64_t, std::list<Piece>::iterator> piece_of_hash_;
};

}  // namespace optserve
