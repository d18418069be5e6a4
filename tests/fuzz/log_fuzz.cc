// Texts of clients in the log. Whatever a value holds, an event is one line, and in JSON another reader finds the
// value.

#include <nlohmann/json.hpp>

#include "engine/util/log.h"
#include "server/text/utf8.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

std::string Logged(LogFormat format, std::string_view value) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  {
    const Log log(format, out);
    log.Warning("event", {{"before", 1}, {"value", value}, {"after", 2}});
  }
  std::fclose(out);
  std::string line(text, size);
  std::free(text);
  return line;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view value = fuzz::Text(data, size);
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    const std::string line = Logged(format, value);
    FUZZ_CHECK(line.ends_with('\n') && line.find('\n') == line.size() - 1);
    FUZZ_CHECK(line.find('\r') == line.npos && line.find('\0') == line.npos && line.find('\x1b') == line.npos);
    FUZZ_CHECK(!FindInvalidUtf8(line));
    if (format == LogFormat::kText) continue;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    FUZZ_CHECK(json.is_object() && json["after"] == 2);
    if (!FindInvalidUtf8(value)) FUZZ_CHECK(json["value"] == value);
  }
  return 0;
}
