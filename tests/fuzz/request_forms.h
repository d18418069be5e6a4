#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "optserve/v1/completion.pb.h"
#include "server/api/completion.h"
#include "server/api/completion_fields.h"

// A decoded request written in each of the two forms that clients send, every field set: what one codec has read, the
// other must read the same.

namespace optserve::fuzz {

std::string ToJson(const CompletionRequest& request);
v1::CompletionRequest ToMessage(const CompletionRequest& request);

// Whether they mean the same. Messages know neither a prompt that is no list nor which bias came first.
bool MeanTheSame(CompletionRequest a, CompletionRequest b);

}  // namespace optserve::fuzz
