#pragma once

#include <string_view>

namespace optserve {

// A web page as its author wrote it: markup, style and script apart. The build joins the files of each and embeds them
// (deploy/cmake/EmbedPage.cmake).
struct PageSource {
  std::string_view html;    // with the lines <!-- style --> and <!-- script -->, where the other two belong
  std::string_view style;   // CSS
  std::string_view script;  // an ECMAScript module
};

extern const PageSource kPlaygroundSource;  // GET /
extern const PageSource kDocsSource;        // GET /docs

}  // namespace optserve
