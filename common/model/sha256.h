// SHA-256 as one object. OpenSSL's, which uses the processor's own instructions.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "common/base/status_macros.h"

namespace moepool {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    MOEPOOL_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Update(const void* data, size_t bytes) {
    MOEPOOL_CHECK(EVP_DigestUpdate(context_.get(), data, bytes) == 1);
  }
  void Update(std::string_view data) { Update(data.data(), data.size()); }
  // Once.
  std::array<uint8_t, 32> Finish() {
    std::array<uint8_t, 32> digest;
    MOEPOOL_CHECK(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace moepool
