#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/api/completion_fields.h"

// The API's description of itself, made from the table of fields. Pure functions; any thread.

namespace optserve {

// Appends a field's JSON Schema (2020-12): type, bounds, default, description; null is always allowed.
void AppendFieldSchema(std::string& json, const CompletionField& field);

// A limit that is in force, by its name in /v1/capabilities.
struct NamedLimit {
  std::string_view name;
  int64_t value = 0;
};

// GET /v1/capabilities: {"object":"capabilities","version","model","limits":{...},"fields":{name: schema}}. Fields that
// are only accepted as null are not in it.
std::string EncodeCapabilities(std::string_view version, std::string_view model, std::span<const NamedLimit> limits);

// GET /openapi.json: the routes of server/README.md in OpenAPI 3.1.
std::string OpenApiDocument(std::string_view version);

}  // namespace optserve
