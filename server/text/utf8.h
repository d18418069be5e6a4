#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

// UTF-8 as bytes: what is well formed, how many characters there are, and how to show what is not.
//
// Source  The Unicode Standard 15, sec. 3.9: table 3-7 (well-formed byte sequences) and "U+FFFD Substitution of Maximal
//         Subparts", which is also what Python's bytes.decode(errors="replace") does.

namespace optserve {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What the first bytes of a text are.
struct Utf8Unit {
  enum class Kind {
    kCharacter,   // one well-formed character
    kInvalid,     // a maximal subpart of an ill-formed sequence: to be shown as one U+FFFD
    kIncomplete,  // the text ends inside a character that more bytes could complete
  };
  Kind kind = Kind::kCharacter;
  size_t num_bytes = 0;  // 1 to 4
};

// The unit at the start of `text`, which must not be empty.
Utf8Unit NextUtf8Unit(std::string_view text);

// Byte position of the first unit that is not a character; nullopt when all of `text` is well formed.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// The longest beginning of `text` that has at most `max_bytes` and does not end inside a character.
std::string_view Utf8Prefix(std::string_view text, size_t max_bytes);

// Number of characters (code points) in well-formed text.
size_t CountCodePoints(std::string_view text);

// Turns a stream of bytes into text: everything returned is well formed. A character split over calls comes out whole
// with its last byte; bytes that can no longer become a character become U+FFFD at once. So at most 3 bytes wait.
// The concatenation of what is returned does not depend on how the bytes were cut.
class Utf8Stream {
 public:
  // The text that became complete with these bytes.
  std::string Push(std::string_view bytes);

  // Ends the stream: U+FFFD when an unfinished character was waiting, else nothing.
  std::string Flush();

  // The bytes that wait.
  std::string_view pending() const { return pending_; }

 private:
  std::string pending_;  // the start of an unfinished character, at most 3 bytes
};

}  // namespace optserve
