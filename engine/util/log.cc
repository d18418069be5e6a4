#include "engine/util/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <cwchar>
#include <locale>

namespace optserve {
namespace {

// Bytes of the UTF-8 character that `text`, which is not empty, starts with; 0 if there is none.
size_t CharacterSize(std::string_view text) {
  using Utf8 = std::codecvt<char32_t, char8_t, std::mbstate_t>;
  std::mbstate_t state{};
  const auto* begin = reinterpret_cast<const char8_t*>(text.data());
  const int size = std::use_facet<Utf8>(std::locale::classic()).length(state, begin, begin + text.size(), 1);
  // The surrogates are the characters that it takes and must not.
  const bool is_surrogate = size == 3 && text[0] == '\xed' && static_cast<unsigned char>(text[1]) >= 0xa0;
  return is_surrogate ? 0 : static_cast<size_t>(size);
}

// The escapes of JSON; in text lines the same, so that quoted values of both formats read alike. Bytes that are no
// UTF-8 become U+FFFD: a client may have sent them, and a log collector would drop the whole line.
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) >= 0x80) {
      const size_t size = CharacterSize(text.substr(i));
      quoted += size == 0 ? "\xef\xbf\xbd" : text.substr(i, size);
      i += std::max<size_t>(size, 1) - 1;
    } else if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

// A word that a reader can split at spaces and at the first '='; others are quoted.
bool IsPlainWord(std::string_view text) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= ' ' || byte >= 0x7f || c == '"' || c == '=' || c == '\\') return false;
  }
  return !text.empty();
}

// Numbers, true and false. JSON knows no nan and no inf; they become text.
bool IsJsonLiteral(const LogField& field) { return !field.is_text && field.value.find('n') == std::string::npos; }

std::string Line(LogFormat format, std::string_view event, std::initializer_list<LogField> fields) {
  const bool json = format == LogFormat::kJson;
  std::string line = json ? fmt::format("\"event\":{}", Quoted(event)) : std::string(event);
  for (const LogField& field : fields) {
    if (json) {
      line += fmt::format(",{}:{}", Quoted(field.key), IsJsonLiteral(field) ? field.value : Quoted(field.value));
    } else {
      line += fmt::format(" {}={}", field.key, IsPlainWord(field.value) ? field.value : Quoted(field.value));
    }
  }
  return line;
}

}  // namespace

class Log::Impl {
 public:
  Impl(LogFormat format, std::FILE* out)
      : logger("", std::make_shared<spdlog::sinks::stdout_sink_base<spdlog::details::console_mutex>>(out)) {
    // One fwrite per line: lines of front end and engine process, which share standard error, do not mix.
    logger.set_formatter(std::make_unique<spdlog::pattern_formatter>(
        format == LogFormat::kJson ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})"
                                   : "%Y-%m-%dT%H:%M:%S.%eZ %l %v",
        spdlog::pattern_time_type::utc));
    logger.flush_on(spdlog::level::info);
  }

  spdlog::logger logger;
};

Log::Log(LogFormat format, std::FILE* out) : format_(format), impl_(std::make_unique<Impl>(format, out)) {}
Log::~Log() = default;

void Log::SetLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return impl_->logger.set_level(spdlog::level::info);
    case LogLevel::kWarning:
      return impl_->logger.set_level(spdlog::level::warn);
    case LogLevel::kError:
      return impl_->logger.set_level(spdlog::level::err);
  }
}

std::string_view Log::level_name() const {
  switch (impl_->logger.level()) {
    case spdlog::level::warn:
      return "warning";
    case spdlog::level::err:
      return "error";
    default:
      return "info";
  }
}

void Log::Info(std::string_view event, std::initializer_list<LogField> fields) const {
  impl_->logger.log(spdlog::level::info, Line(format_, event, fields));
}

void Log::Warning(std::string_view event, std::initializer_list<LogField> fields) const {
  impl_->logger.log(spdlog::level::warn, Line(format_, event, fields));
}

void Log::Error(std::string_view event, std::initializer_list<LogField> fields) const {
  impl_->logger.log(spdlog::level::err, Line(format_, event, fields));
}

}  // namespace optserve
