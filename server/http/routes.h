#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/http/request.h"
#include "server/http/response.h"
#include "server/http/server_state.h"

namespace optserve {

// What a handler is called with.
struct RouteCall {
  const HttpRequest& request;
  std::string_view model;       // where the path names one, decoded; else empty
  std::string_view api_key_id;  // empty: anonymous
  const ServerState& server;
};

// Who may call a route.
enum class RouteAccess {
  kOpen,     // anybody
  kProbe,    // anybody, unless probes_need_key
  kMetrics,  // anybody, unless metrics_need_key
  kKey,      // with an API key, where keys are in use
};

// One line of the table of routes: what is not in it does not exist.
struct Route {
  std::string_view method;  // HEAD goes where GET goes, without the body; empty: all
  std::string_view path;    // whole, or with one {model}, which may have slashes
  RouteAccess access;
  // nullptr: a completion, which the connection serves itself (completion_answer.h). Called on an I/O thread, or on a
  // worker when the body is long.
  HttpResponse (*handler)(const RouteCall& call);
};

std::span<const Route> Routes();

struct RouteMatch {
  const Route* route = nullptr;
  std::string model;

  // Without a route: what to answer, 404 or 405 with Allow.
  HttpResponse refusal;
};

// `path` is as sent: a match is exact, byte for byte.
RouteMatch MatchRoute(std::string_view method, std::string_view path);

}  // namespace optserve
