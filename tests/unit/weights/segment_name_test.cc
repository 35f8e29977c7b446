// Which names are the cache's own.
#include "common/weights/segment_name.h"

#include <gtest/gtest.h>

#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

TEST(SegmentNameTest, KnowsItsOwnAndNoOther) {
  const WeightEntry entries[] = {{"b", 64, 1}, {"a", 0, 1}};
  const WeightEntry other_order[] = {{"a", 0, 1}, {"b", 64, 1}};
  const std::string segment = SegmentName(KindOf(0xab), entries);
  EXPECT_EQ(segment, SegmentName(KindOf(0xab), other_order)) << "the keys make the name, not their order";
  EXPECT_NE(segment, SegmentName(KindOf(0xab), {entries, 1}));
  EXPECT_TRUE(segment.starts_with(SegmentPrefix(KindOf(0xab))));
  const std::string partial = PartialName(segment, 7);
  EXPECT_TRUE(IsSegmentName(segment));
  EXPECT_TRUE(IsPartialName(partial));
  EXPECT_FALSE(IsSegmentName(partial));
  EXPECT_FALSE(IsPartialName(segment));

  // Any byte left out, put in, or exchanged.
  for (const std::string& name : {segment, partial}) {
    const auto own = [](const std::string& other) { return IsSegmentName(other) || IsPartialName(other); };
    const size_t layout = name.find("-3-") + 1;
    for (size_t i = 0; i < name.size(); ++i) {
      EXPECT_FALSE(own(name.substr(0, i) + name.substr(i + 1))) << name << " without byte " << i;
      std::string changed = name;
      changed[i] = 'X';
      EXPECT_FALSE(own(changed)) << changed;
      if (i != layout && i != layout + 1) {  // layouts may have several digits
        EXPECT_FALSE(own(name.substr(0, i) + "0" + name.substr(i))) << name << " with a digit at " << i;
      }
    }
    EXPECT_FALSE(own(name + "0"));
    EXPECT_FALSE(own(name.substr(0, name.size() / 2)));
  }
  EXPECT_FALSE(IsSegmentName(""));
  EXPECT_FALSE(IsPartialName(""));
}

}  // namespace
}  // namespace moepool
