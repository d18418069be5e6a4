#include "server/http/page_routes.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <array>

#include "server/http/ascii.h"

namespace optserve {
namespace {

constexpr std::string_view kStyleMark = "<!-- style -->";
constexpr std::string_view kScriptMark = "<!-- script -->";

std::string Sha256Base64(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  std::string base64(4 * ((digest.size() + 2) / 3) + 1, '\0');  // EVP_EncodeBlock ends it with a NUL
  base64.resize(EVP_EncodeBlock(reinterpret_cast<unsigned char*>(base64.data()), digest.data(), digest.size()));
  return base64;
}

std::string Replace(std::string text, std::string_view mark, std::string_view with) {
  const size_t at = text.find(mark);
  return at == text.npos ? text : text.replace(at, mark.size(), with);
}

// Whether a list of etags, or *, names this one. W/ makes no difference to a GET (RFC 9110, 13.1.2).
bool NamesEtag(std::string_view list, std::string_view etag) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    std::string_view one = Trim(list.substr(0, comma));
    if (one.starts_with("W/")) one.remove_prefix(2);
    if (one == etag || one == "*") return true;
    list = comma == list.npos ? "" : list.substr(comma + 1);
  }
  return false;
}

}  // namespace

Page MakePage(const PageSource& source) {
  Page page;
  page.html = Replace(std::string(source.html), kStyleMark, fmt::format("<style>{}</style>", source.style));
  page.html =
      Replace(std::move(page.html), kScriptMark, fmt::format("<script type=\"module\">{}</script>", source.script));
  // Trusted Types, where a browser has them, forbid the script to make markup out of text at all.
  page.policy = fmt::format(
      "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri "
      "'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
      Sha256Base64(source.script), Sha256Base64(source.style));
  page.etag = fmt::format("\"{}\"", Sha256Base64(page.html).substr(0, 22));
  return page;
}

HttpResponse ServePage(const Page& page, std::string_view if_none_match) {
  HttpResponse response{.content_type = "text/html; charset=utf-8",
                        .fields = {{"ETag", page.etag},
                                   {"Cache-Control", "no-cache"},  // keep it, but ask each time
                                   {"Content-Security-Policy", page.policy},
                                   {"Cross-Origin-Opener-Policy", "same-origin"},
                                   {"Cross-Origin-Resource-Policy", "same-origin"},
                                   {"Referrer-Policy", "no-referrer"},
                                   {"X-Content-Type-Options", "nosniff"}}};
  if (NamesEtag(if_none_match, page.etag)) {
    response.status = 304;
  } else {
    response.body = page.html;
  }
  return response;
}

HttpResponse Playground(const RouteCall& call) {
  static const Page* const page = new Page(MakePage(kPlaygroundSource));
  return ServePage(*page, call.request.Field("if-none-match"));
}

HttpResponse Docs(const RouteCall& call) {
  static const Page* const page = new Page(MakePage(kDocsSource));
  return ServePage(*page, call.request.Field("if-none-match"));
}

}  // namespace optserve
