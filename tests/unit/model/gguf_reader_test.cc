// The container, attacked: every rule of gguf_reader.h broken by a file made for it, every truncation, and
// bits flipped at random.
#include "common/model/gguf_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/model/synthetic.h"
#include "tests/unit/model/test_files.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint32_t kU32Type = 4;
constexpr uint32_t kBoolType = 7;
constexpr uint32_t kStringType = 8;
constexpr uint32_t kArrayType = 9;

void ExpectError(const RawBytes& file, absl::StatusCode code,
                 const ::testing::Matcher<std::string>& message) {
  const absl::Status status = Parse(file.str()).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), message);
}

void ExpectDataLoss(const RawBytes& file, const ::testing::Matcher<std::string>& message) {
  ExpectError(file, absl::StatusCode::kDataLoss, message);
}

TEST(GgufReader, ReadsEveryTypeOfValue) {
  RawBytes raw;
  raw.Header(1, 8, 2);
  raw.Text("u8").U32(0).Put<uint8_t>(200).Text("i16").U32(3).Put<int16_t>(-300).Text("f32").U32(6).Put(0.5f);
  raw.Text("f64")
      .U32(12)
      .Put(0.25)
      .Text("yes")
      .U32(kBoolType)
      .Put<uint8_t>(1)
      .Text("s")
      .U32(kStringType)
      .Text("hé");
  raw.Text("strings").U32(kArrayType).U32(kStringType).U64(2).Text("a").Text("");
  raw.Text("ints").U32(kArrayType).U32(10).U64(2).U64(7).Put<int64_t>(5);
  raw.Tensor("t", 3, 0).Data(12);
  absl::StatusOr<GgufFile> file = Parse(raw.str());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version, 2u);
  const GgufMetadata& metadata = file->metadata;
  EXPECT_EQ(*metadata.Int("u8"), 200);
  EXPECT_EQ(*metadata.Int("i16"), -300);
  EXPECT_EQ(*metadata.Float("f32"), 0.5);
  EXPECT_EQ(*metadata.Float("f64"), 0.25);
  EXPECT_TRUE(*metadata.Bool("yes"));
  EXPECT_EQ(*metadata.String("s"), "hé");
  EXPECT_EQ(*metadata.Strings("strings"), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(*metadata.Ints("ints"), (std::vector<int64_t>{7, 5}));
  ASSERT_EQ(file->tensors.size(), 1u);
  EXPECT_EQ(file->tensors[0].info.bytes, 12u);
  EXPECT_EQ(file->tensors[0].offset, raw.str().size() - 12);
}

TEST(GgufReader, WrongTypesNameKeyAndBothTypes) {
  RawBytes raw;
  raw.Header(0, 3).Text("n").U32(kU32Type).U32(1).Text("s").U32(kStringType).Text("x");
  raw.Text("a").U32(kArrayType).U32(6).U64(1).Put(1.0f);
  const GgufMetadata metadata = Parse(raw.str())->metadata;
  const auto expect = [](const absl::Status& status, const char* key, const char* found, const char* wanted) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(key), HasSubstr(found), HasSubstr(wanted)));
  };
  expect(metadata.String("n").status(), "'n'", "u32", "string");
  expect(metadata.Int("s").status(), "'s'", "string", "integer");
  expect(metadata.Float("n").status(), "'n'", "u32", "f32");
  expect(metadata.Bool("n").status(), "'n'", "u32", "bool");
  expect(metadata.Strings("a").status(), "'a'", "array of f32", "array of string");
  expect(metadata.Ints("a").status(), "'a'", "array of f32", "array of integers");
  expect(metadata.Floats("n").status(), "'n'", "u32", "array of f32");
  EXPECT_EQ(metadata.Int("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*metadata.IntOr("absent", 5), 5);
  EXPECT_FALSE(metadata.IntOr("s", 5).ok());  // a default does not excuse a wrong type
}

TEST(GgufReader, OtherVersionsAndOrders) {
  using absl::StatusCode;
  ExpectError(RawBytes().Header(0, 0, 1), StatusCode::kUnimplemented, HasSubstr("version 1;"));
  ExpectError(RawBytes().Header(0, 0, 4), StatusCode::kUnimplemented, HasSubstr("version 4;"));
  ExpectError(RawBytes().Header(0, 0, 0x03000000), StatusCode::kUnimplemented,
              HasSubstr("version 3 in big-endian"));
  ExpectError(RawBytes().Put('X').Header(0, 0), StatusCode::kDataLoss, HasSubstr("'XGGU'"));
}

TEST(GgufReader, CountsBeyondTheFile) {
  ExpectDataLoss(RawBytes().Header(0, ~uint64_t{0}), HasSubstr("metadata count: 18446744073709551615"));
  ExpectDataLoss(RawBytes().Header(~uint64_t{0}, 0), HasSubstr("tensor count: 18446744073709551615"));
  ExpectDataLoss(RawBytes().Header(0, 1).U64(1 << 30).U64(0), HasSubstr("metadata key: 1073741824 bytes"));
  const auto array = [](uint32_t element, uint64_t count) {
    return RawBytes().Header(0, 1).Text("k").U32(kArrayType).U32(element).U64(count).U64(0);
  };
  // 2^61 elements of 8 bytes: the product overflows to 0.
  ExpectDataLoss(array(10, uint64_t{1} << 61),
                 AllOf(HasSubstr("'k'"), HasSubstr("2305843009213693952 items")));
  ExpectDataLoss(array(kU32Type, 3), HasSubstr("3 items of which 2 fit"));
  ExpectDataLoss(array(kStringType, uint64_t{1} << 60), HasSubstr("'k'"));
  ExpectDataLoss(RawBytes().Header(0, 1).Text("k").U32(kStringType).U64(~uint64_t{0}), HasSubstr("'k'"));
}

TEST(GgufReader, MalformedValues) {
  ExpectError(RawBytes().Header(0, 1).Text("k").U32(kArrayType).U32(kArrayType).U64(1).U64(0),
              absl::StatusCode::kUnimplemented, HasSubstr("'k': arrays of arrays"));
  ExpectDataLoss(RawBytes().Header(0, 1).Text("k").U32(13).U64(0), HasSubstr("'k': value type 13"));
  ExpectDataLoss(RawBytes().Header(0, 1).Text("k").U32(kBoolType).Put<uint8_t>(2), HasSubstr("a bool of 2"));
  ExpectDataLoss(RawBytes().Header(0, 1).Text("").U32(kU32Type).U32(1), HasSubstr("key of 0 bytes"));
  ExpectDataLoss(RawBytes().Header(0, 1).Text(std::string(65536, 'k')).U32(kU32Type).U32(1),
                 HasSubstr("key of 65536 bytes"));
  ExpectDataLoss(RawBytes().Header(0, 2).Text("k").U32(kU32Type).U32(1).Text("k").U32(kU32Type).U32(1),
                 HasSubstr("'k' occurs twice"));
}

TEST(GgufReader, MessagesAreUtf8WhateverTheFileSays) {
  ExpectDataLoss(RawBytes().Header(0, 1).Text("a\xff\n\xc3").U32(99), HasSubstr("'a\\xff\\x0a\\xc3'"));
}

TEST(GgufReader, MalformedTensors) {
  const auto one = [] { return RawBytes().Header(1, 0); };
  ExpectDataLoss(one().Tensor("", 1, 0).Data(4), HasSubstr("name of 0 bytes"));
  ExpectDataLoss(one().Tensor(std::string(65, 'n'), 1, 0).Data(4), HasSubstr("name of 65 bytes"));
  ExpectDataLoss(one().Text("t").U32(0).U32(0).U64(0).Data(32), HasSubstr("'t': 0 dimensions"));
  ExpectDataLoss(one().Text("t").U32(5).U64(1).U64(1).U64(1).U64(1).U64(1).U32(0).U64(0),
                 HasSubstr("5 dimensions"));
  ExpectDataLoss(one().Tensor("t", 0, 0).Data(4), HasSubstr("dimension 0 is 0"));
  ExpectDataLoss(one().Tensor("t", uint64_t{1} << 63, 0).Data(4),
                 HasSubstr("dimension 0 is 9223372036854775808"));
  ExpectError(one().Text("t").U32(1).U64(256).U32(23).U64(0).Data(256), absl::StatusCode::kUnimplemented,
              AllOf(HasSubstr("'t'"), HasSubstr("23 (IQ4_XS)")));
  ExpectDataLoss(one().Text("t").U32(1).U64(33).U32(2).U64(0).Data(64),
                 AllOf(HasSubstr("rows of 33 columns"), HasSubstr("blocks of 32 (Q4_0)")));
  ExpectDataLoss(RawBytes().Header(2, 0).Tensor("t", 1, 0).Tensor("t", 1, 32).Data(64),
                 HasSubstr("'t' occurs twice"));
}

TEST(GgufReader, SizesThatOverflow) {
  const auto tensor = [](std::vector<uint64_t> dims, uint32_t type) {
    RawBytes raw;
    raw.Header(1, 0).Text("t").U32(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) raw.U64(dim);
    return raw.U32(type).U64(0).Data(64);
  };
  constexpr uint64_t k32 = uint64_t{1} << 32;
  ExpectDataLoss(tensor({k32, k32}, 0), HasSubstr("exceed 2^63"));            // elements: 2^64, wraps to 0
  ExpectDataLoss(tensor({k32, k32 / 4, 1, 1}, 0), HasSubstr("exceed 2^63"));  // bytes: 2^64, elements 2^62
  ExpectDataLoss(tensor({1, k32, k32, 2}, 0), HasSubstr("exceed 2^63"));
  ExpectDataLoss(tensor({k32, k32 / 8}, 0), HasSubstr("reach beyond the file"));  // 2^63 bytes
  // Q4_0 stores 18 bytes for 32 columns: the bytes fit where the elements do not.
  ExpectDataLoss(tensor({k32 * 32, k32 / 32}, 2), HasSubstr("exceed 2^63"));
}

TEST(GgufReader, ExtentsOutsideUnalignedOrOverlapping) {
  ExpectDataLoss(RawBytes().Header(1, 0).Tensor("t", 9, 0).Data(35),
                 AllOf(HasSubstr("'t': 36 bytes"), HasSubstr("beyond the file of")));
  ExpectDataLoss(RawBytes().Header(1, 0).Tensor("t", 1, 64).Data(64), HasSubstr("offset 64"));
  ExpectDataLoss(RawBytes().Header(1, 0).Tensor("t", 1, ~uint64_t{31}).Data(64),
                 HasSubstr("beyond the file"));
  ExpectDataLoss(RawBytes().Header(1, 0).Tensor("t", 1, 4).Data(64), HasSubstr("offset 4 is not a multiple"));
  ExpectDataLoss(RawBytes().Header(2, 0).Tensor("b", 8, 32).Tensor("a", 9, 0).Data(64),
                 AllOf(HasSubstr("'a'"), HasSubstr("overlap tensor 'b'")));
  ExpectDataLoss(RawBytes().Header(2, 0).Tensor("a", 8, 0).Tensor("b", 8, 0).Data(64), HasSubstr("overlap"));
  EXPECT_TRUE(Parse(RawBytes().Header(2, 0).Tensor("b", 8, 32).Tensor("a", 8, 0).Data(64).str()).ok());
}

TEST(GgufReader, Alignment) {
  const auto with = [](uint32_t alignment, uint64_t offset) {
    return RawBytes()
        .Header(1, 1)
        .Text("general.alignment")
        .U32(kU32Type)
        .U32(alignment)
        .Tensor("t", 1, offset);
  };
  EXPECT_EQ(Parse(with(64, 64).Data(68, 64).str())->tensors[0].offset % 64, 0u);
  EXPECT_EQ(Parse(with(8, 8).Data(12, 8).str())->alignment, 8u);
  ExpectDataLoss(with(64, 32).Data(128, 64), HasSubstr("not a multiple of the alignment 64"));
  for (const uint32_t bad : {0u, 1u, 4u, 24u, 1u << 21, 0xffffffffu}) {
    ExpectDataLoss(with(bad, 0).Data(4096), HasSubstr("'general.alignment' is " + std::to_string(bad)));
  }
  ExpectDataLoss(RawBytes().Header(0, 1).Text("general.alignment").U32(10).U64(32),
                 HasSubstr("u64, expected u32"));
}

// A whole small model as bytes, and where its tensor data begins.
std::string TinyModel(size_t* header_bytes) {
  TempDirectory directory;
  SynthSpec spec;
  spec.layers = 1;
  spec.hidden = 32;
  spec.heads = 2;
  spec.kv_heads = 1;
  spec.head_dim = 16;
  spec.experts = 4;
  spec.experts_per_token = 2;
  spec.ffn = 32;
  spec.vocab = kSynthMinVocab;
  spec.rope_freqs = true;
  EXPECT_TRUE(WriteSyntheticGguf(spec, directory.File("tiny.gguf")).ok());
  const std::string bytes = ReadFile(directory.File("tiny.gguf"));
  *header_bytes = static_cast<size_t>(Parse(bytes)->tensors[0].offset);
  return bytes;
}

TEST(GgufReader, EveryTruncationIsAnError) {
  size_t header_bytes = 0;
  const std::string bytes = TinyModel(&header_bytes);
  ASSERT_TRUE(ParseModel(bytes).ok()) << ParseModel(bytes).status();
  for (size_t n = 0; n < header_bytes; ++n) ASSERT_FALSE(ParseModel(bytes.substr(0, n)).ok()) << n;
  for (size_t n = header_bytes; n + 32 <= bytes.size(); n += 997) {
    ASSERT_EQ(ParseModel(bytes.substr(0, n)).status().code(), absl::StatusCode::kDataLoss) << n;
  }
}

TEST(GgufReader, FlippedBitsGiveAnErrorOrAModelButNoCrash) {
  constexpr uint64_t kSeed = 20240607;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  size_t header_bytes = 0;
  const std::string bytes = TinyModel(&header_bytes);
  int errors = 0;
  constexpr int kRounds = 6000;
  for (int round = 0; round < kRounds; ++round) {
    std::string flipped = bytes;
    for (uint64_t flips = 1 + random() % 4; flips > 0; --flips) {
      flipped[random() % header_bytes] ^= static_cast<char>(1 << (random() % 8));
    }
    const absl::StatusOr<CheckedModel> model = ParseModel(flipped);
    if (!model.ok()) {
      ++errors;
      continue;
    }
    for (size_t i = 0; i < model->offsets.size(); ++i) {  // what is accepted can be read
      ASSERT_LE(model->offsets[i] + model->tensors.tensors()[i].bytes, flipped.size());
    }
  }
  EXPECT_GT(errors, kRounds / 10);
  EXPECT_LT(errors, kRounds);
}

}  // namespace
}  // namespace moepool
