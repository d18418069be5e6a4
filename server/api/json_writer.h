#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// JSON to text, by appending: answers are small, flat and written once for every token, so they go without a document
// in between.

namespace optserve {

// In quotes. Escapes only what must be; what is not UTF-8 becomes U+FFFD, so that the result always is.
void AppendJsonString(std::string& json, std::string_view text);

// null for the empty string.
void AppendJsonStringOrNull(std::string& json, std::string_view text);

// The shortest digits that read back as the same float, always with a point or an exponent. -inf, which JSON cannot
// say, and NaN are -9999.0; so is everything below.
void AppendJsonLogprob(std::string& json, float logprob);

void AppendJsonInt(std::string& json, int64_t value);

}  // namespace optserve
