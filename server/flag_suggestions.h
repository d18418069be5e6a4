#pragma once

#include <span>
#include <string>
#include <string_view>

// What somebody meant who has written a name that we do not have.

namespace optserve {

// The one of `names` that is `text` but for a slip of a letter or two; empty if none is.
std::string NearestName(std::string_view text, std::span<const std::string> names);

// What to do instead of `unknown` (with its dashes), as the end of a sentence: "did you mean --max-model-len?" for
// another server's name of one of `flags` (also with dashes) or a slip of a letter or two, or what another server's
// flag is here. Empty if nothing comes near.
std::string SuggestFlag(std::string_view unknown, std::span<const std::string> flags);

}  // namespace optserve
