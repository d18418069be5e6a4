#include "server/http/routes.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "server/http/admin_routes.h"
#include "server/http/ascii.h"
#include "server/http/page_routes.h"

namespace optserve {
namespace {

constexpr std::string_view kModel = "{model}";

constexpr auto kRoutes = std::to_array<Route>({
    {"POST", "/v1/completions", RouteAccess::kKey, nullptr},
    {"POST", "/completions", RouteAccess::kKey, nullptr},                     // as Meta's OPT API had it
    {"POST", "/v1/engines/{model}/completions", RouteAccess::kKey, nullptr},  // likewise
    {"GET", "/v1/models", RouteAccess::kKey, Models},
    {"GET", "/v1/capabilities", RouteAccess::kKey, Capabilities},
    {"POST", "/tokenize", RouteAccess::kKey, Tokenize},
    {"POST", "/detokenize", RouteAccess::kKey, Detokenize},
    {"GET", "/tokenizer_info", RouteAccess::kKey, TokenizerInfo},
    {"GET", "/version", RouteAccess::kProbe, Version},
    {"GET", "/openapi.json", RouteAccess::kOpen, OpenApi},
    {"GET", "/", RouteAccess::kOpen, Playground},
    {"GET", "/docs", RouteAccess::kOpen, Docs},
    {"GET", "/livez", RouteAccess::kProbe, Livez},
    {"GET", "/readyz", RouteAccess::kProbe, Readyz},
    {"GET", "/health", RouteAccess::kProbe, Readyz},
    {"GET", "/ping", RouteAccess::kProbe, Readyz},
    {"GET", "/metrics", RouteAccess::kMetrics, MetricsText},
    {"GET", "/debug/steps", RouteAccess::kKey, DebugSteps},
    {"", "/v1/chat/completions", RouteAccess::kOpen, ChatIsNotSupported},
});

// "facebook%2Fopt-125m" is facebook/opt-125m; none when an escape is broken or hides a control character.
std::optional<std::string> PercentDecode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size() || !IsHexDigit(text[i + 1]) || !IsHexDigit(text[i + 2])) return std::nullopt;
    const int byte = HexValue(text[i + 1]) * 16 + HexValue(text[i + 2]);
    if (byte < ' ' || byte == 0x7f) return std::nullopt;
    decoded += static_cast<char>(byte);
    i += 2;
  }
  return decoded;
}

// What {model} stands for, empty if the route has none; none if the path is another.
std::optional<std::string> MatchPath(std::string_view pattern, std::string_view path) {
  const size_t hole = pattern.find(kModel);
  if (hole == pattern.npos) return pattern == path ? std::optional<std::string>("") : std::nullopt;
  const std::string_view before = pattern.substr(0, hole);
  const std::string_view after = pattern.substr(hole + kModel.size());
  if (path.size() <= before.size() + after.size()) return std::nullopt;
  if (!path.starts_with(before) || !path.ends_with(after)) return std::nullopt;
  return PercentDecode(path.substr(before.size(), path.size() - before.size() - after.size()));
}

}  // namespace

std::span<const Route> Routes() { return kRoutes; }

RouteMatch MatchRoute(std::string_view method, std::string_view path) {
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  std::string allow;
  for (const Route& route : kRoutes) {
    std::optional<std::string> model = MatchPath(route.path, path);
    if (!model) continue;
    if (route.method.empty() || route.method == wanted) return {.route = &route, .model = *std::move(model)};
    if (!allow.empty()) allow += ", ";
    allow += route.method;
    if (route.method == "GET") allow += ", HEAD";
  }
  if (allow.empty()) {
    return {.refusal = ErrorResponse(404, "there is no such path here; completions are at POST /v1/completions",
                                     "route_not_found")};
  }
  RouteMatch match{.refusal = ErrorResponse(405, fmt::format("this path takes {}", allow), "method_not_allowed")};
  match.refusal.fields.emplace_back("Allow", std::move(allow));
  return match;
}

}  // namespace optserve
