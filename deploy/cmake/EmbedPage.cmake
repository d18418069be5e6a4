# Run as a script: joins a web page's source files and writes them as a C++ file that defines a PageSource.
#
#   cmake -DNAME=kPlayground -DHTML=head.html;page.html -DSTYLES=a.css;b.css -DSCRIPTS=a.js;b.js -DOUTPUT=out.cc -P EmbedPage.cmake
#
# Bytes are written one by one, so that no character of the sources needs care.

# Appends to the variable TEXT the definition of an array NAME with the bytes of the files, one after the other.
function(append_array TEXT ARRAY)
  set(bytes "")
  foreach(file IN LISTS ARGN)
    file(READ "${file}" hex HEX)
    string(APPEND bytes "${hex}")
  endforeach()
  string(REGEX REPLACE "(................................................................)" "\\1\n" bytes "${bytes}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
  set(${TEXT} "${${TEXT}}constexpr char ${ARRAY}[] = {\n${bytes}};\n\n" PARENT_SCOPE)
endfunction()

set(text "// Made by deploy/cmake/EmbedPage.cmake.\n#include \"server/http/playground/page_source.h\"\n\n"
         "namespace optserve {\nnamespace {\n\n")
string(CONCAT text ${text})
append_array(text kHtml ${HTML})
append_array(text kStyle ${STYLES})
append_array(text kScript ${SCRIPTS})
string(APPEND text "}  // namespace\n\nconst PageSource ${NAME} = {.html = {kHtml, sizeof(kHtml)}, "
                   ".style = {kStyle, sizeof(kStyle)}, .script = {kScript, sizeof(kScript)}};\n\n}  // namespace optserve\n")
file(WRITE "${OUTPUT}" "${text}")
