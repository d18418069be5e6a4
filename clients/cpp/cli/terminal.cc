#include "clients/cpp/cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

namespace optserve::cli {
namespace {

struct Shade {
  double from;
  int color;  // of xterm's 256
  std::string_view name;
};

constexpr std::array kShades = {Shade{0.8, 34, "p >= 0.8"}, Shade{0.5, 148, ">= 0.5"}, Shade{0.2, 220, ">= 0.2"},
                                Shade{0.05, 208, ">= 0.05"}, Shade{0, 196, "below"}};

std::string InColor(std::string_view text, int color) {
  std::string painted;
  while (!text.empty()) {
    const size_t line = std::min(text.find('\n'), text.size());
    if (line > 0) painted += fmt::format("\x1b[38;5;{}m{}\x1b[0m", color, text.substr(0, line));
    if (line < text.size()) painted += '\n';
    text.remove_prefix(std::min(line + 1, text.size()));
  }
  return painted;
}

}  // namespace

Terminal TerminalOf(std::FILE* stream, ColorWish wish) {
  Terminal terminal = {.is_terminal = isatty(fileno(stream)) == 1};
  if (wish != ColorWish::kAuto) {
    terminal.has_color = wish == ColorWish::kAlways;
    return terminal;
  }
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool is_refused =
      (no_color != nullptr && *no_color != '\0') || (term != nullptr && std::string_view(term) == "dumb");
  terminal.has_color = terminal.is_terminal && !is_refused;
  return terminal;
}

std::string Shown(std::string_view text, const Terminal& terminal) {
  if (!terminal.is_terminal) return std::string(text);
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (byte == 0x7F) {
      shown += "\u2421";
    } else if (is_c1) {
      shown += "\uFFFD";
      ++i;
    } else if (byte < 0x20 && byte != '\n' && byte != '\t') {
      shown += "\xE2\x90";  // U+2400 + byte
      shown += static_cast<char>(0x80 + byte);
    } else {
      shown += text[i];
    }
  }
  return shown;
}

std::string Painted(std::string_view text, double probability, const Terminal& terminal) {
  const std::string shown = Shown(text, terminal);
  if (!terminal.has_color) return shown;
  for (const Shade& shade : kShades) {
    if (probability >= shade.from) return InColor(shown, shade.color);
  }
  return InColor(shown, kShades.back().color);
}

std::string ColorLegend(const Terminal& terminal) {
  if (!terminal.has_color) return "";
  std::string legend;
  for (const Shade& shade : kShades) {
    if (!legend.empty()) legend += "  ";
    legend += InColor(shade.name, shade.color);
  }
  return legend;
}

int TerminalColumns(std::FILE* stream) {
  winsize size = {};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace optserve::cli
