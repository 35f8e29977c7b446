// Writes seeds for the fuzz targets into FOLDER/<target>/: small well-formed inputs of each kind, from which
// the kept corpora began.  moepool-fuzz-seeds FOLDER, in the root of the repository.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/synthetic.h"
#include "common/transport/frame.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz_frames.h"

namespace moepool {
namespace {

namespace fs = std::filesystem;

template <typename T>
std::string Bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string ReadText(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

class Seeds {
 public:
  explicit Seeds(fs::path root) : root_(std::move(root)) {}
  fs::path Path(const std::string& target, const std::string& name) const {
    fs::create_directories(root_ / target);
    return root_ / target / ("seed-" + name);
  }
  void Write(const std::string& target, const std::string& name, std::string_view bytes) const {
    std::ofstream out(Path(target, name), std::ios::binary);
    MOEPOOL_CHECK(out.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).good());
  }

 private:
  const fs::path root_;
};

void WriteModels(const Seeds& seeds) {
  SynthSpec spec = FuzzModel();
  const auto write = [&](const std::string& name) {
    MOEPOOL_CHECK(WriteSyntheticGguf(spec, seeds.Path("gguf", name)).ok());
  };
  spec.layers = 1;
  spec.dtype = DType::kQ4_0;
  spec.heads = 2;
  spec.kv_heads = 1;
  write("qwen3moe");
  spec.family = "olmoe";
  write("olmoe");
  spec.family = "qwen2moe";
  spec.shared_ffn = 32;
  write("qwen2moe");
  spec.shared_ffn = 0;
  spec.family = "phimoe";
  spec.original_context = 128;
  write("phimoe");
  spec.original_context = 0;
  spec.family = "llama";
  write("mixtral");
  spec.split_experts = true;
  write("mixtral-split");
  spec.split_experts = false;
  spec.experts = 0;
  spec.experts_per_token = 0;
  spec.rope_freqs = true;
  spec.tied_embeddings = true;
  write("llama");
  spec.family = "qwen2";
  spec.rope_freqs = false;
  write("qwen2");
  spec.family = "llama";
  for (int type = 0; type < kDTypeCount; ++type) {
    spec.dtype = static_cast<DType>(type);
    spec.hidden = Info(spec.dtype).block_cols == 256 ? 256 : 32;
    write(StrCat("llama-", Info(spec.dtype).name));
  }
}

std::string Tokens(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& token : tokens) {
    const bool control = token.starts_with("<");
    const bool byte = token.starts_with("<0x");
    out += static_cast<char>(token.size());
    out += static_cast<char>(byte ? 6 : control ? 3 : 1);
    out += static_cast<char>(-static_cast<int>(out.size() % 50));
    out += token;
  }
  return out + '\xFF';
}

void WriteTokenizers(const Seeds& seeds) {
  const std::string ids = Bytes<int16_t>(0) + Bytes<int16_t>(1) + Bytes<int16_t>(1) + Bytes<int16_t>(2) +
                          Bytes<int16_t>(-1) + Bytes<int16_t>(0);
  const std::string no_charsmap = Bytes<uint16_t>(0);
  const std::string text = "Hello, world's 123\n\n  caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD <s> ab";
  std::vector<std::string> tokens = {"<s>", "</s>", "<unk>"};
  for (char c = 33; c < 127; ++c) tokens.emplace_back(1, c);
  for (const char* more : {"\xC4\xA0", "\xC4\x8A", "ab", "lo", "llo", "\xC4\xA0w", "He"})
    tokens.emplace_back(more);
  std::string merges;
  for (const char* merge : {"a b", "l o", "l lo", "\xC4\xA0 w", "H e"}) {
    merges += static_cast<char>(std::strlen(merge));
    merges += merge;
  }
  merges += '\xFF';
  for (int pre = 0; pre < 14; ++pre) {
    seeds.Write("tokenizer_metadata", StrCat("gpt2-", pre),
                Bytes<uint8_t>(0) + Bytes(static_cast<uint8_t>(pre)) + Bytes<uint16_t>(0x0103) + ids +
                    no_charsmap + Tokens(tokens) + merges + text);
  }
  // Rules with one entry, A to a: a double array of three units in use, and the text.
  std::vector<uint32_t> units(256, 0);
  constexpr uint32_t kHasLeaf = 1u << 8;
  constexpr int kOffset = 10;
  units[0] = 128u << kOffset;
  units[128 ^ 'A'] = 1u << kOffset | kHasLeaf | 'A';
  units[128 ^ 'A' ^ 1] = 1u << 31;
  std::string rules = Bytes(static_cast<uint32_t>(units.size() * sizeof(uint32_t)));
  for (const uint32_t unit : units) rules += Bytes(unit);
  rules += std::string("a\0", 2);
  const std::string charsmap = Bytes(static_cast<uint16_t>(rules.size())) + rules;
  std::vector<std::string> pieces = {"<unk>", "<s>", "</s>", "\xE2\x96\x81"};
  for (const char* piece : {"H", "e", "l", "o", "w", "r", "d", "He", "lo", "llo", "\xE2\x96\x81w",
                            "\xE2\x96\x81wor", ",", "1", "a", "b", "ab"})
    pieces.emplace_back(piece);
  for (const int model : {1, 2}) {
    for (const bool bytes : {false, true}) {
      for (const bool normalises : {false, true}) {
        const uint16_t flags = static_cast<uint16_t>(0x01F3 | (bytes ? 0x0200 : 0));
        seeds.Write("tokenizer_metadata",
                    StrCat("pieces-", model, bytes ? "-bytes" : "", normalises ? "-rules" : ""),
                    Bytes(static_cast<uint8_t>(model)) + Bytes<uint8_t>(1) + Bytes(flags) + ids +
                        (normalises ? charsmap : no_charsmap) + Tokens(pieces) + '\xFF' + "A " + text);
      }
    }
  }
}

void WriteFrames(const Seeds& seeds) {
  const ModelConfig config = MakeSyntheticSource(FuzzModel()).value()->Config();
  const size_t hidden = static_cast<size_t>(config.hidden);
  std::vector<float> x(2 * hidden, 0.5f);
  std::vector<int8_t> q(2 * hidden, 3);
  std::vector<float> scale(2 * hidden / 32, 0.25f);
  const std::vector<int32_t> rows = {0, 1};
  const std::vector<WirePart> parts = {{0, 1, 0, 0}, {1, 0, 2, 2}};
  const std::vector<ExpertEntry> entries = {{0, 0.5f}, {1, 0.5f}, {2, 1.0f}};
  std::vector<uint8_t> frame;
  const auto text = [&frame] {
    return std::string(reinterpret_cast<const char*>(frame.data()), frame.size());
  };
  for (const WireDType in : {WireDType::kF32, WireDType::kInt8Block32}) {
    DispatchRequest request;
    request.header.dispatch_id = 1;
    request.header.router_id = 1;
    request.header.incarnation = 1;
    request.header.model_digest = kFuzzDigest;
    request.header.in = in;
    request.x = {2, config.hidden, x.data(), q.data(), scale.data()};
    request.rows = rows;
    request.parts = parts;
    request.entries = entries;
    EncodeDispatch(request, &frame);
    seeds.Write("frame_dispatch", in == WireDType::kF32 ? "f32" : "int8", text());
  }
  FrameHeader dispatch;
  dispatch.dispatch_id = 1;
  dispatch.router_id = 1;
  dispatch.incarnation = 1;
  dispatch.model_digest = kFuzzDigest;
  dispatch.layer = 1;
  dispatch.hidden = static_cast<uint32_t>(hidden);
  dispatch.parts = 5;
  const auto listed = [&] { return Bytes(static_cast<uint16_t>(frame.size())) + text(); };
  std::vector<float> data(5 * hidden, 1.5f);
  const std::vector<uint8_t> faults = {0, 1, 0, 0, 0};
  for (const size_t count : {size_t{3}, size_t{4}, size_t{5}}) {
    EncodeReply(dispatch, 0, {data.data(), count * hidden}, {faults.data(), count}, &frame);
    seeds.Write("frame_reply", StrCat("whole-", count), listed());
  }
  EncodeReply(dispatch, 1, {data.data(), 2 * hidden}, {faults.data(), 2}, &frame);
  std::string pieces = listed();
  EncodeReply(dispatch, 0, {data.data(), 2 * hidden}, {faults.data(), 2}, &frame);
  seeds.Write("frame_reply", "pieces", pieces + listed());
  EncodeRefusal(dispatch, absl::NotFoundError("no such expert"), &frame);
  seeds.Write("frame_reply", "refusal", listed());
}

void WriteRings(const Seeds& seeds) {
  // A record of 20 bytes in a frame of 20: the head goes on by 48.
  const std::string record =
      Bytes<uint32_t>(20) + Bytes<uint32_t>(1) + Bytes<uint64_t>(20) + std::string(20, 'x');
  std::string polls = Bytes<uint8_t>(0);
  for (uint16_t at = 0; at < 4 * 48; at += 48) {
    polls += Bytes<uint8_t>(3) + Bytes(at) + Bytes(static_cast<uint8_t>(record.size())) + record;
  }
  seeds.Write("shared_memory_ring", "receive", polls);
  std::string sends = Bytes<uint8_t>(1);
  for (int i = 0; i < 6; ++i) sends += Bytes<uint8_t>(100) + Bytes<uint16_t>(1000) + Bytes<uint8_t>(200);
  seeds.Write("shared_memory_ring", "send", sends);
}

void WriteTemplates(const Seeds& seeds) {
  const auto golden = nlohmann::ordered_json::parse(ReadText("tests/golden/templates.json"));
  const auto& conversations = golden["conversations"];
  size_t next = 0;
  for (const auto& entry : fs::directory_iterator("tests/golden/templates")) {
    // Turns, thoughts, tools and calls in their turn.
    constexpr size_t kChosen[] = {4, 7, 10, 11, 12, 18};
    nlohmann::ordered_json variables = conversations[kChosen[next++ % std::size(kChosen)]]["variables"];
    variables["bos_token"] = "<s>";
    variables["eos_token"] = "</s>";
    seeds.Write("template", entry.path().stem(), ReadText(entry.path()) + '\0' + variables.dump());
  }
  // Small templates of every construct, some of which fail.
  const auto cases = nlohmann::ordered_json::parse(ReadText("tests/golden/jinja_cases.json"));
  const std::string small =
      R"({"x":5,"s":"Hello","l":[3,1,2],"d":{"a":[1,{"c":null}]},"users":[{"name":"Bo"}]})";
  int number = 0;
  for (const auto& item : cases["cases"]) {
    if (++number % 2 == 0)
      seeds.Write("template", StrCat("case-", number), item["template"].get<std::string>() + '\0' + small);
  }
}

void WriteRequests(const Seeds& seeds) {
  const std::string infer =
      R"({"messages":[{"role":"user","content":"Hi \u00e9"}],"max_tokens":5,"temperature":0.5,"top_p":0.9,"top_k":3,)"
      R"("min_p":0.1,"seed":7,"stop":["a","b"],"stream":true,"logit_bias":{"5":-1.5},"logprobs":2,"n":2})";
  const std::string tokens =
      R"({"token_ids":[1,2,3],"ignore_eos":true,"min_tokens":1,"frequency_penalty":0.5})";
  const std::string prompt = R"({"prompt":"a\n","raw":true,"timeout_s":1.5,"repetition_penalty":1.1})";
  const std::string tokenize = R"({"text":"abc","parse_special":false})";
  const auto post = [](const std::string& path, const std::string& body) {
    return StrCat("POST ", path,
                  "?a=b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: ",
                  body.size(), "\r\n\r\n", body);
  };
  seeds.Write("http_json", "infer", "\xFF" + post("/infer", infer));
  seeds.Write("http_json", "two", "\x07" + post("/infer", tokens) + post("/tokenize", tokenize));
  seeds.Write("http_json", "chunked",
              "\x20POST /infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
              "chunked\r\n\r\n8\r\n{\"prompt\r\n5;x=y\r\n\":\"a\"\r\n"
              "1\r\n}\r\n0\r\nTrailer: t\r\n\r\nGET /health HTTP/1.0\r\n\r\n");
  for (const std::string& body : {infer, tokens, prompt, tokenize})
    seeds.Write("http_json", StrCat("body-", body.size()), body);
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) {
  using namespace moepool;
  MOEPOOL_CHECK(argc == 2);
  const Seeds seeds(argv[1]);
  WriteModels(seeds);
  WriteTokenizers(seeds);
  WriteFrames(seeds);
  WriteRings(seeds);
  WriteTemplates(seeds);
  WriteRequests(seeds);
  return 0;
}
