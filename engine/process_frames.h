#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine_client.h"
#include "engine/request.h"
#include "optserve/internal/engine.pb.h"

// Between the structs of the border and its frames (proto/optserve/internal/engine.proto). The two ends are one binary,
// so what arrives is what was sent; nothing here validates.

namespace optserve {

void ToProto(const absl::Status& from, internal::Status* to);  // with its payloads
absl::Status FromProto(const internal::Status& from);

void ToProto(const GenerateRequest& from, internal::GenerateRequest* to);
GenerateRequest FromProto(const internal::GenerateRequest& from);

void ToProto(const TokenEvent& from, internal::TokenEvent* to);
TokenEvent FromProto(const internal::TokenEvent& from);

void ToProto(const ModelInfo& from, internal::ModelInfo* to);
ModelInfo FromProto(const internal::ModelInfo& from);

void ToProto(const EngineStats& from, internal::EngineStats* to);
EngineStats FromProto(const internal::EngineStats& from);

void ToProto(const StepRecord& from, internal::StepRecord* to);
StepRecord FromProto(const internal::StepRecord& from);

}  // namespace optserve
