#include "common/text/nfc.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uniset.h>

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

// Lives as long as the process. Null, with `error` set, where ICU's data cannot be read.
const icu::Normalizer2* MakeNormalizer(UErrorCode& error) {
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  if (U_FAILURE(error)) return nullptr;
  auto* characters = new icu::UnicodeSet(icu::UnicodeString("[:Age=9.0:]"), error);
  if (U_FAILURE(error)) {
    delete characters;
    return nullptr;
  }
  characters->freeze();
  return new icu::FilteredNormalizer2(*nfc, *characters);
}

}  // namespace

absl::StatusOr<std::string> ToNfc(std::string_view text) {
  static UErrorCode made = U_ZERO_ERROR;
  static const icu::Normalizer2* const normalizer = MakeNormalizer(made);
  UErrorCode error = made;
  std::string composed;
  if (U_SUCCESS(error)) {
    icu::StringByteSink<std::string> sink(&composed);
    normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                              nullptr, error);
  }
  if (U_FAILURE(error)) return absl::InternalError(absl::StrCat("NFC: ", u_errorName(error)));
  return composed;
}

}  // namespace moepool
