#pragma once

#include <string>

namespace optserve {

// `optserve tokenize`: each line of standard input to a JSON list of ids on a line of standard output; with `decode`
// back. Returns the exit code; a line that cannot be read ends it with that line's number.
int Tokenize(const std::string& model, bool decode);

}  // namespace optserve
