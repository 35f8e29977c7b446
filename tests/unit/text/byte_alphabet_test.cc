#include "common/text/byte_alphabet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moepool {
namespace {

TEST(ByteAlphabet, SpellsEachByteOnceAndBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(BytesFromSpelling(SpellingFromBytes(all)), all);
  EXPECT_EQ(SpellingFromBytes(" \n\t\x7F"), "ĠĊĉġ");
  EXPECT_EQ(SpellingFromBytes("\xC3\xA9~!\xAD"), "Ã©~!Ń");
  EXPECT_EQ(BytesFromSpelling("Ġé"), " \xE9");
  for (const char* outside : {"a b", "\n", "ń", "中", "\xC2\xAD", "\xFF"}) {
    EXPECT_EQ(BytesFromSpelling(outside), std::nullopt) << outside;
  }
}

}  // namespace
}  // namespace moepool
