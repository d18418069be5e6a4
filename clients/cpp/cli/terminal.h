#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace optserve::cli {

enum class ColorWish { kAuto, kAlways, kNever };

// How a stream is written to.
struct Terminal {
  bool is_terminal = false;
  bool has_color = false;
};

// `wish` kAuto: colour on a terminal, unless the variable NO_COLOR holds anything (no-color.org) or TERM is "dumb".
Terminal TerminalOf(std::FILE* stream, ColorWish wish);

// `text` as it may be shown: on a terminal, control characters but line ends and tabs become their pictures, so that
// what a model writes cannot move the cursor or worse.
std::string Shown(std::string_view text, const Terminal& terminal);

// `text` in the colour of a probability: green from 0.8, lime from 0.5, yellow from 0.2, orange from 0.05, red below.
// The colour ends before each line end. `text` itself without colour.
std::string Painted(std::string_view text, double probability, const Terminal& terminal);

// "low ... high" in those colours, to be read with them; empty without colour.
std::string ColorLegend(const Terminal& terminal);

// The columns of the terminal behind `stream`; 80 if it does not say.
int TerminalColumns(std::FILE* stream);

}  // namespace optserve::cli
