#include "engine/checkpoint/file_hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <memory>

#include "engine/util/status.h"

namespace optserve {

absl::StatusOr<std::string> HashOf(std::span<const std::byte> bytes, HashKind kind) {
  constexpr size_t kPiece = size_t{64} << 20;
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  bool ok = context != nullptr &&
            EVP_DigestInit_ex(context.get(), kind == HashKind::kMd5 ? EVP_md5() : EVP_sha256(), nullptr) == 1;
  while (ok && !bytes.empty()) {
    const auto piece = bytes.first(std::min(kPiece, bytes.size()));
    ok = EVP_DigestUpdate(context.get(), piece.data(), piece.size()) == 1;
    bytes = bytes.subspan(piece.size());
  }
  ok = ok && EVP_DigestFinal_ex(context.get(), digest.data(), &size) == 1;
  if (!ok) return Internal("OpenSSL has no {}", kind == HashKind::kMd5 ? "MD5" : "SHA-256");
  std::string text;
  for (const unsigned char byte : std::span(digest).first(size)) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace optserve
