// The wire format: what is written is read back, and whatever else arrives is refused with the field and both
// values named, without a byte outside the frame being touched.
#include "common/transport/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Frame = std::vector<uint8_t>;

constexpr uint64_t kDigest = 0x1122334455667788;
constexpr FrameLimits kLimits{.hidden = 96, .layers = 3, .experts = 6, .model_digest = kDigest};
constexpr size_t kHeader = sizeof(FrameHeader);

// A copy on the heap that ends where the frame ends, so that the sanitizer sees a read beyond it.
class Exact {
 public:
  explicit Exact(const Frame& frame) : size_(frame.size()), data_(new uint8_t[size_]) {
    if (size_ != 0) std::memcpy(data_.get(), frame.data(), size_);
  }
  std::span<const uint8_t> bytes() const { return {data_.get(), size_}; }

 private:
  size_t size_;
  std::unique_ptr<uint8_t[]> data_;  // operator new aligns to 16
};

// Everything a dispatch of three of seven rows points at. An odd number of scales, parts and entries.
struct Sample {
  explicit Sample(WireDType in, int hidden = kLimits.hidden) {
    std::minstd_rand random(7);
    for (int i = 0; i < 7 * hidden; ++i) {
      f32.push_back(static_cast<float>(random() % 2001) / 1000 - 1);
      q.push_back(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
    }
    for (int i = 0; i < 7 * hidden / 32; ++i) scale.push_back(static_cast<float>(random() % 100) / 100);
    request.header.router_id = 11;
    request.header.incarnation = 12;
    request.header.dispatch_id = 13;
    request.header.model_digest = kDigest;
    request.header.epoch = 14;
    request.header.layer = 2;
    request.header.micro_batch = 1;
    request.header.budget_us = 15;
    request.header.in = in;
    request.x = {7, hidden, f32.data(), q.data(), scale.data()};
    request.rows = rows;
    request.parts = parts;
    request.entries = entries;
    EncodeDispatch(request, &frame);
  }

  std::vector<float> f32;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> rows = {1, 4, 6};
  std::vector<WirePart> parts = {{0, 3, 0, 0}, {1, 1, 0, 2}, {1, 0, 5, 4}, {2, 2, 1, 5}, {2, 0, 3, 6}};
  std::vector<ExpertEntry> entries = {{0, 0.5f}, {5, -0.25f}, {0, 1.0f}, {1, 0.0f},
                                      {5, 2.5f}, {4, 0.125f}, {3, 3.0f}};
  DispatchRequest request;
  Frame frame;
};

template <typename T>
void Poke(Frame* frame, size_t offset, T value) {
  std::memcpy(frame->data() + offset, &value, sizeof(value));
}

Frame Reply(uint32_t first_part, size_t parts) {
  const Sample sample(WireDType::kF32);
  std::vector<float> data(parts * kLimits.hidden);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i) * 0.5f;
  std::vector<uint8_t> faults(parts);
  for (size_t i = 0; i < parts; ++i) faults[i] = i % 3 == 1;
  FrameHeader header;
  std::memcpy(&header, sample.frame.data(), kHeader);
  Frame frame;
  EncodeReply(header, first_part, data, faults, &frame);
  return frame;
}

absl::Status DispatchStatus(const Frame& frame) {
  const Exact exact(frame);
  return DecodeDispatch(exact.bytes(), kLimits).status();
}

absl::Status ReplyStatus(const Frame& frame) {
  const Exact exact(frame);
  return DecodeReply(exact.bytes(), kLimits).status();
}

TEST(FrameTest, DispatchOfFloatsIsReadBack) {
  const Sample sample(WireDType::kF32);
  const Exact exact(sample.frame);
  const auto view = DecodeDispatch(exact.bytes(), kLimits);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->header.length, sample.frame.size());
  EXPECT_EQ(view->header.router_id, 11u);
  EXPECT_EQ(view->header.incarnation, 12u);
  EXPECT_EQ(view->header.dispatch_id, 13u);
  EXPECT_EQ(view->header.epoch, 14u);
  EXPECT_EQ(view->header.layer, 2u);
  EXPECT_EQ(view->header.micro_batch, 1u);
  EXPECT_EQ(view->header.budget_us, 15u);
  ASSERT_EQ(view->x.rows, 3);
  ASSERT_EQ(view->x.cols, 96);
  EXPECT_EQ(view->x.q, nullptr);
  for (size_t i = 0; i < sample.rows.size(); ++i) {
    const auto row = std::span(sample.f32).subspan(static_cast<size_t>(sample.rows[i]) * 96, 96);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), view->x.f32 + i * 96)) << i;
  }
  ASSERT_EQ(view->parts.size(), sample.parts.size());
  EXPECT_EQ(0, std::memcmp(view->parts.data(), sample.parts.data(), view->parts.size_bytes()));
  ASSERT_EQ(view->entries.size(), sample.entries.size());
  EXPECT_EQ(0, std::memcmp(view->entries.data(), sample.entries.data(), view->entries.size_bytes()));
}

TEST(FrameTest, DispatchOfInt8BlocksIsReadBack) {
  const Sample sample(WireDType::kInt8Block32);
  const Exact exact(sample.frame);
  const auto view = DecodeDispatch(exact.bytes(), kLimits);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->x.f32, nullptr);
  for (size_t i = 0; i < sample.rows.size(); ++i) {
    const size_t row = static_cast<size_t>(sample.rows[i]);
    const auto q = std::span(sample.q).subspan(row * 96, 96);
    const auto scale = std::span(sample.scale).subspan(row * 3, 3);
    EXPECT_TRUE(std::equal(q.begin(), q.end(), view->x.q + i * 96)) << i;
    EXPECT_TRUE(std::equal(scale.begin(), scale.end(), view->x.scale + i * 3)) << i;
  }
  ASSERT_EQ(view->entries.size(), sample.entries.size());
  EXPECT_EQ(view->entries[6].expert, 3);
}

// Rows that lie elsewhere than their head, of which the bytes are the same.
TEST(FrameTest, TheEndOfAFrameMayLieElsewhere) {
  for (const WireDType in : {WireDType::kF32, WireDType::kInt8Block32}) {
    const Sample sample(in);
    Frame head;
    EncodeDispatchHead(sample.request, &head);
    const Exact exact(head);
    const Exact rows(Frame(sample.frame.begin() + static_cast<ptrdiff_t>(head.size()), sample.frame.end()));
    EXPECT_EQ(rows.bytes().size(), WireRowBytes(in, 3, kLimits.hidden));
    EXPECT_TRUE(std::equal(head.begin(), head.end(), sample.frame.begin()));
    const auto decode = [&](size_t head_bytes, size_t row_bytes) {
      return DecodeDispatch({exact.bytes().first(head_bytes), nullptr, rows.bytes().first(row_bytes)},
                            kLimits);
    };
    const auto view = decode(head.size(), rows.bytes().size());
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_TRUE(view->on_device);
    const void* const x = in == WireDType::kF32 ? static_cast<const void*>(view->x.f32) : view->x.q;
    EXPECT_EQ(x, rows.bytes().data());
    if (view->x.scale != nullptr) {
      EXPECT_EQ(view->x.scale[3], sample.scale[4 * 3]);
    }
    EXPECT_THAT(std::string(decode(head.size(), rows.bytes().size() - 4).status().message()),
                HasSubstr("length is"));
    // The right length, cut in another place.
    const Exact longer(
        Frame(sample.frame.begin(), sample.frame.begin() + static_cast<ptrdiff_t>(head.size() + 8)));
    EXPECT_THAT(
        std::string(
            DecodeDispatch({longer.bytes(), nullptr, rows.bytes().subspan(8)}, kLimits).status().message()),
        HasSubstr("bytes before the rows"));
  }
  const Frame reply = Reply(5, 7);
  const size_t sums = 7 * kLimits.hidden * sizeof(float);
  const Exact head(Frame(reply.begin(), reply.end() - static_cast<ptrdiff_t>(sums)));
  const Exact data(Frame(reply.end() - static_cast<ptrdiff_t>(sums), reply.end()));
  const auto view = DecodeReply({head.bytes(), nullptr, data.bytes()}, kLimits);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_TRUE(view->on_device);
  EXPECT_EQ(static_cast<const void*>(view->data.data()), data.bytes().data());
  EXPECT_EQ(view->faults[1], 1);
  EXPECT_THAT(
      std::string(DecodeReply({head.bytes(), nullptr, data.bytes().subspan(4)}, kLimits).status().message()),
      HasSubstr("length is"));
}

TEST(FrameTest, FloatRowsNeedNoWholeBlocks) {
  FrameLimits limits = kLimits;
  limits.hidden = 7;
  const Sample sample(WireDType::kF32, 7);
  const Exact exact(sample.frame);
  const auto view = DecodeDispatch(exact.bytes(), limits);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->x.f32[7 + 3], sample.f32[4 * 7 + 3]);
  EXPECT_EQ(view->entries[0].weight, 0.5f);

  Frame int8 = sample.frame;
  Poke(&int8, offsetof(FrameHeader, in), WireDType::kInt8Block32);
  const Exact exact_int8(int8);
  EXPECT_THAT(std::string(DecodeDispatch(exact_int8.bytes(), limits).status().message()),
              AllOf(HasSubstr("hidden is 7"), HasSubstr("32")));
}

// Encoders reuse their buffer; what lay there before must not travel in the padding.
TEST(FrameTest, EncodingDoesNotDependOnWhatTheBufferHeld) {
  for (const WireDType in : {WireDType::kF32, WireDType::kInt8Block32}) {
    Sample sample(in);
    Frame dirty(sample.frame.size() + 999, 0xEE);
    EncodeDispatch(sample.request, &dirty);
    EXPECT_EQ(dirty, sample.frame);
  }
}

TEST(FrameTest, RepliesOfOddNumbersOfPartsAreReadBack) {
  for (const size_t parts : {1u, 7u, 8u, 9u}) {
    const Exact exact(Reply(5, parts));
    const auto view = DecodeReply(exact.bytes(), kLimits);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->header.dispatch_id, 13u);
    EXPECT_EQ(view->header.first_part, 5u);
    ASSERT_EQ(view->faults.size(), parts);
    ASSERT_EQ(view->data.size(), parts * 96);
    for (size_t i = 0; i < parts; ++i) EXPECT_EQ(view->faults[i], i % 3 == 1);
    for (size_t i = 0; i < view->data.size(); ++i) ASSERT_EQ(view->data[i], static_cast<float>(i) * 0.5f);
  }
}

TEST(FrameTest, RefusalCarriesCodeAndText) {
  const Sample sample(WireDType::kF32);
  Frame frame;
  EncodeRefusal(sample.request.header, absl::NotFoundError("expert 3 is not held"), &frame);
  const Exact exact(frame);
  const absl::Status status = DecodeRefusal(exact.bytes());
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "worker refused: expert 3 is not held");
  EXPECT_EQ(DecodeHeader(exact.bytes())->dispatch_id, 13u);

  EncodeRefusal(sample.request.header, absl::InternalError(std::string(2000, 'x')), &frame);
  EXPECT_EQ(frame.size(), kHeader + 512);
  EXPECT_EQ(DecodeRefusal(Exact(frame).bytes()).code(), absl::StatusCode::kInternal);
  EncodeRefusal(sample.request.header, absl::InternalError(""), &frame);
  EXPECT_EQ(DecodeRefusal(Exact(frame).bytes()).message(), "worker refused: ");
}

TEST(FrameTest, RefusalNeverReadsAsOk) {
  Frame frame;
  EncodeRefusal(Sample(WireDType::kF32).request.header, absl::InternalError("odd"), &frame);
  Frame bad = frame;
  Poke<uint16_t>(&bad, offsetof(FrameHeader, code), 0);
  EXPECT_EQ(DecodeRefusal(Exact(bad).bytes()).code(), absl::StatusCode::kInternal);
  bad = frame;
  Poke<uint16_t>(&bad, offsetof(FrameHeader, code), 9999);
  EXPECT_EQ(DecodeRefusal(Exact(bad).bytes()).code(), absl::StatusCode::kUnknown);
  for (const uint32_t text_bytes : {0u, 2u, 4u, 513u, 0xFFFFFFFFu}) {
    bad = frame;
    Poke(&bad, offsetof(FrameHeader, text_bytes), text_bytes);
    EXPECT_THAT(std::string(DecodeRefusal(Exact(bad).bytes()).message()),
                AllOf(HasSubstr("text bytes is " + std::to_string(text_bytes)), HasSubstr("3")));
  }
  EXPECT_THAT(std::string(DecodeRefusal(Exact(Reply(0, 1)).bytes()).message()),
              AllOf(HasSubstr("kind is 2"), HasSubstr("3")));
}

struct Corruption {
  const char* field;
  std::function<void(Frame*)> apply;
  std::vector<std::string> words;  // of the message
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

template <typename T>
std::function<void(Frame*)> Set(size_t offset, T value) {
  return [=](Frame* frame) { Poke(frame, offset, value); };
}

// What a dispatch and a reply share.
std::vector<Corruption> HeaderCorruptions() {
  return {
      {"magic", Set<uint32_t>(offsetof(FrameHeader, magic), 5), {"magic is 5", std::to_string(kFrameMagic)}},
      {"version", Set<uint16_t>(offsetof(FrameHeader, version), 1), {"version is 1", "expected 3"}},
      {"kind", Set<uint16_t>(offsetof(FrameHeader, kind), 9), {"kind is 9", "3"}},
      {"length", Set<uint64_t>(offsetof(FrameHeader, length), 99), {"length is 99", "received"}},
      {"flags", Set<uint32_t>(offsetof(FrameHeader, flags), 2), {"flags is 2", "known are"}},
      {"adapter", Set<uint32_t>(offsetof(FrameHeader, adapter_id), 3), {"adapter id is 3", "expected 0"}},
      {"layer", Set<uint32_t>(offsetof(FrameHeader, layer), 3), {"layer is 3", "the model has 3"}},
      {"layer", Set<uint32_t>(offsetof(FrameHeader, layer), 1u << 31), {"layer is 2147483648"}},
      {"hidden", Set<uint32_t>(offsetof(FrameHeader, hidden), 95), {"hidden is 95", "expected 96"}},
      {"digest",
       Set<uint64_t>(offsetof(FrameHeader, model_digest), 0xABC),
       {"model digest is abc", "1122334455667788"},
       absl::StatusCode::kFailedPrecondition},
      {"out", Set<uint8_t>(offsetof(FrameHeader, out), 1), {"dtype of parts is 1", "expected 0"}},
      {"code", Set<uint16_t>(offsetof(FrameHeader, code), 4), {"code is 4", "expected 0"}},
      {"text", Set<uint32_t>(offsetof(FrameHeader, text_bytes), 6), {"text bytes is 6", "expected 0"}},
  };
}

void ExpectRefused(const std::vector<Corruption>& corruptions, const Frame& good,
                   absl::Status (*decode)(const Frame&)) {
  ASSERT_TRUE(decode(good).ok()) << decode(good);
  for (const Corruption& corruption : corruptions) {
    Frame frame = good;
    corruption.apply(&frame);
    const absl::Status status = decode(frame);
    EXPECT_EQ(status.code(), corruption.code) << corruption.field << ": " << status;
    for (const std::string& word : corruption.words) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(word)) << corruption.field;
    }
  }
}

TEST(FrameTest, EachCorruptedFieldOfADispatchIsNamed) {
  const Sample sample(WireDType::kInt8Block32);
  const size_t parts = kHeader;
  const size_t entries = parts + 64;  // 5 parts, padded
  const size_t x = entries + 7 * sizeof(ExpertEntry);
  const size_t scale = x + 288;
  ASSERT_EQ(sample.frame.size(), scale + 9 * sizeof(float));
  const auto part = [&](int p, size_t field) { return parts + p * sizeof(WirePart) + field; };
  const auto entry = [&](int e, size_t field) { return entries + e * sizeof(ExpertEntry) + field; };
  constexpr size_t kRow = offsetof(WirePart, row), kLevel = offsetof(WirePart, level),
                   kIndex = offsetof(WirePart, index), kBegin = offsetof(WirePart, begin);
  constexpr size_t kExpert = offsetof(ExpertEntry, expert), kWeight = offsetof(ExpertEntry, weight);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();

  std::vector<Corruption> corruptions = HeaderCorruptions();
  for (const Corruption& c : std::vector<Corruption>{
           {"kind", Set<uint16_t>(offsetof(FrameHeader, kind), 2), {"kind is 2", "expected 1"}},
           {"in", Set<uint8_t>(offsetof(FrameHeader, in), 2), {"dtype of activations is 2", "1"}},
           {"in", Set<uint8_t>(offsetof(FrameHeader, in), 0), {"length is", "make"}},
           {"rows", Set<uint32_t>(offsetof(FrameHeader, rows), 0), {"rows is 0", "65536"}},
           {"rows", Set<uint32_t>(offsetof(FrameHeader, rows), 4), {"length is", "make"}},
           {"rows", Set<uint32_t>(offsetof(FrameHeader, rows), 65537), {"rows is 65537", "65536"}},
           {"parts", Set<uint32_t>(offsetof(FrameHeader, parts), 0), {"parts is 0", "1"}},
           {"parts", Set<uint32_t>(offsetof(FrameHeader, parts), 8), {"parts is 8", "entries are 7"}},
           {"parts", Set<uint32_t>(offsetof(FrameHeader, parts), 2), {"length is", "make"}},
           {"entries", Set<uint32_t>(offsetof(FrameHeader, entries), 19), {"entries is 19", "18"}},
           {"entries", Set<uint32_t>(offsetof(FrameHeader, entries), 8), {"length is", "make"}},
           {"first part", Set<uint32_t>(offsetof(FrameHeader, first_part), 1), {"first part is 1", "0"}},
           {"scale", Set(scale + 4, kNan), {"scale is nan"}},
           {"scale", Set(scale + 8 * 4, kInfinity), {"scale is inf"}},
           {"scale", Set(scale, -0.5f), {"scale is -0.5", "at least 0"}},
           {"code", Set<int8_t>(x, -128), {"row 0, column 0 is -128", "at least -127"}},
           {"code", Set<int8_t>(x + 287, -128), {"row 2, column 95 is -128"}},
           {"row", Set<uint32_t>(part(2, kRow), 3), {"row of a part is 3", "rows are 3"}},
           {"level", Set<uint16_t>(part(0, kLevel), 4), {"level of a part is 4", "the tree has 3"}},
           {"index", Set<uint16_t>(part(1, kIndex), 1), {"node of an expert is 0", "its part is 1"}},
           {"begin", Set<uint32_t>(part(0, kBegin), 1), {"begin of the first part is 1", "expected 0"}},
           {"begin", Set<uint32_t>(part(4, kBegin), 8), {"end of a part is 8", "entries are 7"}},
           {"begin", Set<uint32_t>(part(2, kBegin), 2), {"begin of a part is 2", "its end is 2"}},
           {"expert", Set<int32_t>(entry(1, kExpert), 6), {"expert is 6", "the model has 6"}},
           {"expert", Set<int32_t>(entry(0, kExpert), -1), {"expert is -1", "the model has 6"}},
           {"expert", Set<int32_t>(entry(1, kExpert), 0), {"expert is 0", "must be above 0"}},
           {"expert", Set<int32_t>(entry(4, kExpert), 4), {"node of an expert is 4", "its part is 5"}},
           {"weight", Set(entry(6, kWeight), kNan), {"weight of expert 3 is nan"}},
           {"weight", Set(entry(0, kWeight), -kInfinity), {"weight of expert 0 is -inf"}},
       }) {
    corruptions.push_back(c);
  }
  ExpectRefused(corruptions, sample.frame, DispatchStatus);
}

TEST(FrameTest, EachCorruptedFieldOfAReplyIsNamed) {
  std::vector<Corruption> corruptions = HeaderCorruptions();
  for (const Corruption& c : std::vector<Corruption>{
           {"kind", Set<uint16_t>(offsetof(FrameHeader, kind), 1), {"kind is 1", "expected 2"}},
           {"rows", Set<uint32_t>(offsetof(FrameHeader, rows), 2), {"rows is 2", "expected 0"}},
           {"entries", Set<uint32_t>(offsetof(FrameHeader, entries), 2), {"entries is 2", "expected 0"}},
           {"parts", Set<uint32_t>(offsetof(FrameHeader, parts), 0), {"parts is 0", "1"}},
           {"parts", Set<uint32_t>(offsetof(FrameHeader, parts), 4), {"length is", "make"}},
           {"parts", Set<uint32_t>(offsetof(FrameHeader, parts), 6), {"parts is 6", "room for 5"}},
           {"parts",
            Set<uint32_t>(offsetof(FrameHeader, parts), 0xFFFFFFFF),
            {"parts is 4294967295", "room for 5"}},
       }) {
    corruptions.push_back(c);
  }
  ExpectRefused(corruptions, Reply(0, 5), ReplyStatus);
}

TEST(FrameTest, FramesCutShortAnywhereAreRefused) {
  const Frame dispatch = Sample(WireDType::kInt8Block32).frame;
  for (size_t size = 0; size < dispatch.size(); ++size) {
    Frame cut(dispatch.begin(), dispatch.begin() + static_cast<int64_t>(size));
    EXPECT_EQ(DispatchStatus(cut).code(), absl::StatusCode::kInvalidArgument) << size;
    if (size < kHeader) continue;
    Poke<uint64_t>(&cut, offsetof(FrameHeader, length), size);  // even where the length agrees
    EXPECT_EQ(DispatchStatus(cut).code(), absl::StatusCode::kInvalidArgument) << size;
  }
  const Frame reply = Reply(0, 3);
  for (size_t size = 0; size < reply.size(); ++size) {
    Frame cut(reply.begin(), reply.begin() + static_cast<int64_t>(size));
    if (size >= kHeader) Poke<uint64_t>(&cut, offsetof(FrameHeader, length), size);
    EXPECT_EQ(ReplyStatus(cut).code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

// Reads all that a view points at, as a worker would.
double Walk(const DispatchView& view) {
  double sum = 0;
  const size_t elements = static_cast<size_t>(view.x.rows) * static_cast<size_t>(view.x.cols);
  for (size_t i = 0; i < elements; ++i) sum += view.x.q != nullptr ? view.x.q[i] : view.x.f32[i];
  for (size_t i = 0; view.x.scale != nullptr && i < elements / 32; ++i) sum += view.x.scale[i];
  for (size_t p = 0; p < view.parts.size(); ++p) {
    const size_t end = p + 1 < view.parts.size() ? view.parts[p + 1].begin : view.entries.size();
    EXPECT_LT(view.parts[p].row, static_cast<uint32_t>(view.x.rows));
    EXPECT_LT(view.parts[p].begin, end);
    for (size_t i = view.parts[p].begin; i < end; ++i) {
      EXPECT_GE(view.entries[i].expert, 0);
      EXPECT_LT(view.entries[i].expert, kLimits.experts);
      EXPECT_TRUE(std::isfinite(view.entries[i].weight));
    }
  }
  return sum;
}

TEST(FrameTest, MutatedFramesAreReadOrRefusedAndNeverOverrun) {
  constexpr uint32_t kSeed = 20240711;
  RecordProperty("seed", static_cast<int>(kSeed));
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  Frame refusal;
  EncodeRefusal(Sample(WireDType::kF32).request.header, absl::NotFoundError("expert 3 is not held"),
                &refusal);
  const std::vector<Frame> originals = {Sample(WireDType::kF32).frame, Sample(WireDType::kInt8Block32).frame,
                                        Reply(2, 5), refusal};
  constexpr uint32_t kInteresting[] = {0,    1,    2,      7,       31,         32,
                                       0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF};
  int read = 0;
  double sum = 0;
  for (int round = 0; round < 200'000; ++round) {
    Frame frame = originals[random() % originals.size()];
    for (uint32_t edits = 1 + random() % 3; edits > 0; --edits) {
      // Half of the edits fall on the header, most of whose values are refused, so that the rest is reached
      // too.
      const size_t range = random() % 2 == 0 ? kHeader : frame.size();
      const size_t offset = random() % range;
      if (random() % 2 == 0) {
        frame[offset] ^= static_cast<uint8_t>(1u << (random() % 8));
      } else if (offset / 4 * 4 + 4 <= frame.size()) {
        Poke(&frame, offset / 4 * 4, kInteresting[random() % std::size(kInteresting)]);
      }
    }
    if (random() % 4 == 0) frame.resize(random() % (frame.size() + 64));
    // The length is right in most, or nothing else would be looked at.
    if (frame.size() >= kHeader && random() % 8 != 0)
      Poke<uint64_t>(&frame, offsetof(FrameHeader, length), frame.size());
    const Exact exact(frame);
    if (const auto view = DecodeDispatch(exact.bytes(), kLimits); view.ok()) {
      sum += Walk(*view);
      ++read;
    }
    if (const auto view = DecodeReply(exact.bytes(), kLimits); view.ok()) {
      for (const float value : view->data) sum += value;
      for (const uint8_t fault : view->faults) sum += fault;
      ++read;
    }
    EXPECT_FALSE(DecodeRefusal(exact.bytes()).ok());
  }
  // Some stay readable, or the loop would only have tested the first check.
  EXPECT_GT(read, 10'000) << sum;
}

}  // namespace
}  // namespace moepool
