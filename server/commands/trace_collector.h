#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/tracing/span_exporter.h"

namespace optserve {

// How spans get to the collector at `url`: a POST of OTLP/HTTP in JSON for each batch, over a connection of its own;
// with https the certificate is checked by the system's authorities. A URL without a path means OTLP's, /v1/traces.
//
// InvalidArgument: it is no URL, or not of HTTP.
absl::StatusOr<SpanExporter::Send> SendToCollector(const std::string& url);

}  // namespace optserve
