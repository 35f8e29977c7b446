// UTF-8 by code points, as Python's str sees text: lengths, offsets, white space, case. Invalid bytes count
// as one code point each, so no input is lost or refused here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace moepool::jinja {

// Bytes of the code point that starts at `at` (< text.size()), 1 to 4; its value in *code_point unless null.
size_t DecodeAt(std::string_view text, size_t at, uint32_t* code_point = nullptr);
void AppendUtf8(uint32_t code_point, std::string* out);
bool IsAscii(std::string_view text);
int64_t CountCodePoints(std::string_view text);
// Byte offset of the code point with this index; text.size() where it lies at or past the end.
size_t ByteOffset(std::string_view text, int64_t index);

// Offset of the first `needle` at or after `from`, in linear time whatever the two texts are; npos where
// there is none.
size_t FindText(std::string_view text, std::string_view needle, size_t from);

// str.isspace's set, which is also the set that str.strip and the lexer's white space control remove.
bool IsSpace(uint32_t code_point);
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);
std::string_view Strip(std::string_view text);

// Unicode's simple case mappings, one code point to one; Upper also maps ß to SS.
uint32_t LowerOf(uint32_t code_point);
uint32_t UpperOf(uint32_t code_point);
std::string Lower(std::string_view text);
std::string Upper(std::string_view text);
// str.capitalize; and the `title` filter (`python` false: words split at white space, - ( { [ <) or
// str.title.
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text, bool python);
bool IsAlpha(uint32_t code_point);
bool IsDigit(uint32_t code_point);    // superscripts and circled digits included
bool IsDecimal(uint32_t code_point);  // digits of positional numbers alone

// What repr() shows as an escape rather than as itself.
bool IsPrintable(uint32_t code_point);

}  // namespace moepool::jinja
