#include "server/tracing/trace_context.h"

#include <sys/random.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace optserve {
namespace {

constexpr size_t kMaxStateBytes = 512;  // as much as the standard asks everybody to carry
constexpr size_t kMaxStateMembers = 32;
constexpr size_t kTraceparentBytes = 55;  // version 00

bool IsLowerOrDigit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'); }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Reads lower-case digits, two for each byte.
bool ReadHex(std::string_view text, std::span<uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = HexDigit(text[2 * i]);
    const int low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return true;
}

bool IsZero(std::span<const uint8_t> bytes) {
  return std::ranges::all_of(bytes, [](uint8_t byte) { return byte == 0; });
}

// version "-" trace id "-" span id "-" flags.
std::optional<TraceContext> ParseTraceparent(std::string_view text) {
  TraceContext context;
  std::array<uint8_t, 1> version = {};
  std::array<uint8_t, 1> flags = {};
  if (text.size() < kTraceparentBytes || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  if (!ReadHex(text, version) || !ReadHex(text.substr(3), context.trace_id) ||
      !ReadHex(text.substr(36), context.span_id) || !ReadHex(text.substr(53), flags)) {
    return std::nullopt;
  }
  if (version[0] == 0xff || IsZero(context.trace_id) || IsZero(context.span_id)) return std::nullopt;
  if (text.size() > kTraceparentBytes && (version[0] == 0 || text[kTraceparentBytes] != '-')) return std::nullopt;
  context.sampled = (flags[0] & 1) != 0;
  return context;
}

// A letter or digit, then up to `max_bytes` - 1 of those and of "_-*/".
bool IsKeyPart(std::string_view part, size_t max_bytes) {
  return !part.empty() && part.size() <= max_bytes && IsLowerOrDigit(part[0]) && std::ranges::all_of(part, [](char c) {
    return IsLowerOrDigit(c) || std::string_view("_-*/").find(c) != std::string_view::npos;
  });
}

// simple-key, or tenant-id "@" system-id.
bool IsStateKey(std::string_view key) {
  const size_t at = key.find('@');
  if (at == std::string_view::npos) return IsKeyPart(key, 256) && key[0] >= 'a';
  return IsKeyPart(key.substr(0, at), 241) && IsKeyPart(key.substr(at + 1), 14) && key[at + 1] >= 'a';
}

// Printable ASCII without the comma and '=', and no space at its end.
bool IsStateValue(std::string_view value) {
  return !value.empty() && value.size() <= 256 && value.back() != ' ' &&
         std::ranges::all_of(value, [](char c) { return c >= ' ' && c <= '~' && c != ',' && c != '='; });
}

std::string_view TrimSpace(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool IsTracestate(std::string_view text) {
  std::vector<std::string_view> keys;
  for (bool more = true; more;) {
    const size_t comma = text.find(',');
    const std::string_view member = TrimSpace(text.substr(0, comma));
    more = comma != std::string_view::npos;
    if (more) text.remove_prefix(comma + 1);
    if (member.empty()) continue;  // the standard lets them stand
    const size_t equals = member.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view key = member.substr(0, equals);
    if (!IsStateKey(key) || !IsStateValue(member.substr(equals + 1))) return false;
    if (std::ranges::find(keys, key) != keys.end() || keys.size() == kMaxStateMembers) return false;
    keys.push_back(key);
  }
  return !keys.empty();
}

template <typename Id>
Id NewId() {
  Id id = {};
  // So few bytes come whole or not at all, and not at all only before the kernel has any randomness.
  (void)getrandom(id.data(), id.size(), GRND_NONBLOCK);
  if (IsZero(id)) id.back() = 1;
  return id;
}

}  // namespace

std::optional<TraceContext> ParseTraceContext(std::span<const std::string_view> traceparents,
                                              std::span<const std::string_view> tracestates) {
  if (traceparents.size() != 1) return std::nullopt;
  std::optional<TraceContext> context = ParseTraceparent(TrimSpace(traceparents[0]));
  if (!context) return std::nullopt;
  std::string state;
  for (const std::string_view part : tracestates) {  // several fields are one list
    if (part.size() + state.size() > kMaxStateBytes) return context;
    if (!state.empty()) state += ',';
    state += TrimSpace(part);
  }
  if (state.size() <= kMaxStateBytes && IsTracestate(state)) context->state = std::move(state);
  return context;
}

std::string FormatTraceparent(const TraceContext& context) {
  std::string text = "00-";
  text += Hex(context.trace_id);
  text += '-';
  text += Hex(context.span_id);
  text += context.sampled ? "-01" : "-00";
  return text;
}

std::string Hex(std::span<const uint8_t> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

TraceId NewTraceId() { return NewId<TraceId>(); }
SpanId NewSpanId() { return NewId<SpanId>(); }

}  // namespace optserve
