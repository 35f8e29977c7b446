#include "common/text/jinja_unicode.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <cstring>

namespace moepool::jinja {
namespace {

bool IsContinuation(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;
}

bool IsCased(uint32_t c) { return LowerOf(c) != c || UpperOf(c) != c || c == 0xDF; }

void AppendUpper(uint32_t c, bool title, std::string* out) {
  if (c == 0xDF) {
    out->append(title ? "Ss" : "SS");
  } else {
    AppendUtf8(UpperOf(c), out);
  }
}

}  // namespace

size_t DecodeAt(std::string_view text, size_t at, uint32_t* code_point) {
  const uint8_t lead = static_cast<uint8_t>(text[at]);
  uint32_t value = lead;
  size_t length = 1;
  if (lead >= 0xC2 && lead < 0xE0 && IsContinuation(text, at + 1)) {
    length = 2;
    value = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead < 0xF0 && IsContinuation(text, at + 1) && IsContinuation(text, at + 2)) {
    length = 3;
    value = lead & 0x0Fu;
  } else if (lead >= 0xF0 && lead < 0xF5 && IsContinuation(text, at + 1) && IsContinuation(text, at + 2) &&
             IsContinuation(text, at + 3)) {
    length = 4;
    value = lead & 0x07u;
  }
  if (code_point != nullptr) {
    for (size_t i = 1; i < length; ++i) value = value << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3Fu);
    *code_point = value;
  }
  return length;
}

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

int64_t CountCodePoints(std::string_view text) {
  if (IsAscii(text)) return static_cast<int64_t>(text.size());
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); at += DecodeAt(text, at)) ++count;
  return count;
}

size_t ByteOffset(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += DecodeAt(text, at);
  return at;
}

size_t FindText(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // glibc's memmem is the two-way algorithm; std::string::find would be quadratic on hostile texts.
  const void* const hit = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return hit == nullptr ? std::string_view::npos
                        : static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

bool IsSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string_view StripLeft(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint32_t c;
    const size_t length = DecodeAt(text, at, &c);
    if (!IsSpace(c)) break;
    at += length;
  }
  return text.substr(at);
}

std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && text.size() - at < 4 && IsContinuation(text, at)) --at;
    uint32_t c;
    if (at + DecodeAt(text, at, &c) != text.size() || !IsSpace(c)) break;
    text = text.substr(0, at);
  }
  return text;
}

std::string_view Strip(std::string_view text) { return StripRight(StripLeft(text)); }

uint32_t LowerOf(uint32_t c) { return static_cast<uint32_t>(u_tolower(static_cast<UChar32>(c))); }

uint32_t UpperOf(uint32_t c) { return static_cast<uint32_t>(u_toupper(static_cast<UChar32>(c))); }

std::string Lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    const size_t length = DecodeAt(text, at, &c);
    if (length == 1) {
      out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));  // an invalid byte stays as it is
    } else {
      AppendUtf8(LowerOf(c), &out);
    }
    at += length;
  }
  return out;
}

std::string Upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    const size_t length = DecodeAt(text, at, &c);
    if (length == 1) {
      out.push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
    } else {
      AppendUpper(c, false, &out);
    }
    at += length;
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return "";
  uint32_t c;
  const size_t length = DecodeAt(text, 0, &c);
  std::string out;
  if (length == 1) {
    out.push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
  } else {
    AppendUpper(c, true, &out);
  }
  return out + Lower(text.substr(length));
}

std::string Title(std::string_view text, bool python) {
  std::string out;
  bool inside_word = false;
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    const size_t length = DecodeAt(text, at, &c);
    if (length == 1 && c >= 0x80) {
      out.push_back(text[at]);
    } else if (inside_word) {
      AppendUtf8(LowerOf(c), &out);
    } else {
      AppendUpper(c, true, &out);
    }
    at += length;
    inside_word =
        python ? IsCased(c) : !(IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<');
  }
  return out;
}

bool IsAlpha(uint32_t c) { return u_isalpha(static_cast<UChar32>(c)); }

bool IsDigit(uint32_t c) {
  const int32_t type = u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}

bool IsDecimal(uint32_t c) {
  return u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE) == U_NT_DECIMAL;
}

bool IsPrintable(uint32_t c) {
  constexpr uint32_t kHidden = U_GC_C_MASK | U_GC_Z_MASK;
  return c == ' ' || (U_GET_GC_MASK(static_cast<UChar32>(c)) & kHidden) == 0;
}

}  // namespace moepool::jinja
