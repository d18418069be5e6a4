#pragma once

#include <fmt/format.h>

#include <concepts>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

// One line per event: when, how bad, what happened, and the facts as key=value. For people and for log collectors.

namespace optserve {

// 2026-01-31T12:00:00.000Z info engine_ready seconds=0.21 model="demo model"
// {"time":"2026-01-31T12:00:00.000Z","level":"info","event":"engine_ready","seconds":0.21,"model":"demo model"}
enum class LogFormat { kText, kJson };

// From which kind of event on events are written.
enum class LogLevel { kInfo, kWarning, kError };

// A fact of an event. Keys are ours: [a-z_]+.
struct LogField {
  template <typename T>
  requires std::is_arithmetic_v<T> LogField(std::string_view key_in, T number)
      : key(key_in), value(fmt::format("{}", number)) {}
  LogField(std::string_view key_in, std::string_view text) : key(key_in), value(text), is_text(true) {}
  LogField(std::string_view key_in, const char* text) : LogField(key_in, std::string_view(text)) {}
  LogField(std::string_view key_in, const std::string& text) : LogField(key_in, std::string_view(text)) {}

  std::string_view key;
  std::string value;  // as printed, before quoting
  bool is_text = false;
};

// Writes events to standard error. Whatever a value holds, an event stays one line of valid text. Any thread may call.
class Log {
 public:
  explicit Log(LogFormat format, std::FILE* out = stderr);
  ~Log();

  // `event` is a name such as engine_ready: [a-z_]+.
  void Info(std::string_view event, std::initializer_list<LogField> fields = {}) const;
  void Warning(std::string_view event, std::initializer_list<LogField> fields = {}) const;
  void Error(std::string_view event, std::initializer_list<LogField> fields = {}) const;

  LogFormat format() const { return format_; }

  void SetLevel(LogLevel level);  // kInfo until it is called
  std::string_view level_name() const;

 private:
  class Impl;
  LogFormat format_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optserve
