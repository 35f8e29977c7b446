// Methods of str. Positions are in code points.
#include <algorithm>
#include <map>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

Value Piece(const Value& self, std::string_view text) {
  return Value::String(std::string(text), self.IsMarkup());
}

// rfind is not linear in the worst case; it pays for that.
absl::Status ChargeBackwards(Runtime& runtime, std::string_view text, std::string_view needle) {
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  const size_t shorter = std::min(needle.size(), text.size());
  return runtime.Charge(static_cast<int64_t>(text.size() / 32 * (shorter / 16)));
}

template <typename Map>
ValueOr MapText(Runtime& runtime, const Value& self, Map map) {
  return runtime.NewString(map(std::string_view(self.AsString())), self.IsMarkup());
}

ValueOr UpperMethod(Runtime& r, const Value& v, const Args&) { return MapText(r, v, Upper); }
ValueOr LowerMethod(Runtime& r, const Value& v, const Args&) { return MapText(r, v, Lower); }
ValueOr CapitalizeMethod(Runtime& r, const Value& v, const Args&) { return MapText(r, v, Capitalize); }
ValueOr TitleMethod(Runtime& r, const Value& v, const Args&) {
  return MapText(r, v, [](std::string_view text) { return Title(text, /*python=*/true); });
}
ValueOr SwapCase(Runtime& r, const Value& v, const Args&) {
  return MapText(r, v, [](std::string_view text) {
    std::string out;
    for (size_t at = 0, length; at < text.size(); at += length) {
      length = DecodeAt(text, at);
      const std::string_view one = text.substr(at, length);
      out += Lower(one) != one ? Lower(one) : Upper(one);
    }
    return out;
  });
}

ValueOr StripSides(Runtime& runtime, const Value& self, const Args& args, bool left, bool right) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"chars"}));
  std::string_view text = self.AsString();
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  if (!bound.Has(0) || bound[0].IsNone()) {
    if (left) text = StripLeft(text);
    if (right) text = StripRight(text);
    return Piece(self, text);
  }
  MOEPOOL_ASSIGN_OR_RETURN(const std::string chars, bound.String(0, ""));
  std::vector<std::string_view> set;
  for (size_t at = 0, length; at < chars.size(); at += length) {
    length = DecodeAt(chars, at);
    set.push_back(std::string_view(chars).substr(at, length));
  }
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(text.size() / 16 * (set.size() / 4))));
  auto in_set = [&](std::string_view c) { return std::find(set.begin(), set.end(), c) != set.end(); };
  while (left && !text.empty() && in_set(text.substr(0, DecodeAt(text, 0))))
    text.remove_prefix(DecodeAt(text, 0));
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && text.size() - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
    if (!in_set(text.substr(at))) break;
    text = text.substr(0, at);
  }
  return Piece(self, text);
}
ValueOr StripMethod(Runtime& r, const Value& v, const Args& a) { return StripSides(r, v, a, true, true); }
ValueOr LeftStrip(Runtime& r, const Value& v, const Args& a) { return StripSides(r, v, a, true, false); }
ValueOr RightStrip(Runtime& r, const Value& v, const Args& a) { return StripSides(r, v, a, false, true); }

// Words between white space, at most `limit` splits if that is not negative, from the left or the right.
std::vector<std::string_view> SplitSpace(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  while (true) {
    text = from_right ? StripRight(text) : StripLeft(text);
    if (text.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(from_right ? StripRight(text) : text);
      break;
    }
    uint32_t c = 0;
    size_t at = from_right ? text.size() : 0;
    if (from_right) {
      while (at > 0) {
        size_t previous = at - 1;
        while (previous > 0 && at - previous < 4 && (static_cast<uint8_t>(text[previous]) & 0xC0) == 0x80)
          --previous;
        DecodeAt(text, previous, &c);
        if (IsSpace(c)) break;
        at = previous;
      }
      parts.push_back(text.substr(at));
      text = text.substr(0, at);
    } else {
      while (at < text.size()) {
        const size_t length = DecodeAt(text, at, &c);
        if (IsSpace(c)) break;
        at += length;
      }
      parts.push_back(text.substr(0, at));
      text = text.substr(at);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitBy(std::string_view text, std::string_view separator, int64_t limit,
                                      bool from_right) {
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t hit = from_right ? text.rfind(separator) : FindText(text, separator, 0);
    if (hit == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(hit + separator.size()) : text.substr(0, hit));
    text = from_right ? text.substr(0, hit) : text.substr(hit + separator.size());
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

ValueOr Pieces(Runtime& runtime, const Value& self, const std::vector<std::string_view>& parts,
               ListKind kind = ListKind::kList) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(parts.size())));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string_view part : parts) items.push_back(Piece(self, part));
  return runtime.NewList(std::move(items), kind);
}

ValueOr SplitSide(Runtime& runtime, const Value& self, const Args& args, bool from_right) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"sep", "maxsplit"}));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t limit, bound.Int(1, -1));
  const std::string& text = self.AsString();
  if (!bound.Has(0) || bound[0].IsNone()) {
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
    return Pieces(runtime, self, SplitSpace(text, limit, from_right));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const std::string separator, bound.String(0, ""));
  if (separator.empty()) return TypeError("empty separator");
  MOEPOOL_RETURN_IF_ERROR(ChargeBackwards(runtime, text, from_right ? separator : ""));
  return Pieces(runtime, self, SplitBy(text, separator, limit, from_right));
}
ValueOr Split(Runtime& r, const Value& v, const Args& a) { return SplitSide(r, v, a, false); }
ValueOr RightSplit(Runtime& r, const Value& v, const Args& a) { return SplitSide(r, v, a, true); }

ValueOr PartitionSide(Runtime& runtime, const Value& self, const Args& args, bool from_right) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"sep"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string separator, bound.String(0, ""));
  if (separator.empty()) return TypeError("empty separator");
  MOEPOOL_RETURN_IF_ERROR(ChargeBackwards(runtime, self.AsString(), from_right ? separator : ""));
  std::vector<std::string_view> parts = SplitBy(self.AsString(), separator, 1, from_right);
  if (parts.size() == 2) {
    parts.insert(parts.begin() + 1, separator);
  } else {
    parts.insert(from_right ? parts.begin() : parts.end(), 2, "");
  }
  return Pieces(runtime, self, parts, ListKind::kTuple);
}
ValueOr Partition(Runtime& r, const Value& v, const Args& a) { return PartitionSide(r, v, a, false); }
ValueOr RightPartition(Runtime& r, const Value& v, const Args& a) { return PartitionSide(r, v, a, true); }

ValueOr SplitLines(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"keepends"}));
  const std::string_view text = self.AsString();
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    uint32_t c;
    const size_t end = at;
    at += DecodeAt(text, at, &c);
    const bool newline =
        (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!newline) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, (bound.True(0, false) ? at : end) - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return Pieces(runtime, self, lines);
}

ValueOr Replace(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"old", "new", "count"}, 2));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string from, bound.String(0, ""));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string to, bound.String(1, ""));
  MOEPOOL_ASSIGN_OR_RETURN(int64_t count, bound.Int(2, -1));
  const std::string_view text = self.AsString();
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  std::string out;
  size_t at = 0;
  while (count != 0) {
    const size_t hit = FindText(text, from, at);
    if (hit == std::string_view::npos) break;
    out.append(text.substr(at, hit - at));
    out += to;
    at = hit + from.size();
    --count;
    if (from.empty()) {
      if (at == text.size()) break;
      const size_t length = DecodeAt(text, at);
      out.append(text.substr(at, length));
      at += length;
    }
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(to.size() + 32));
    MOEPOOL_RETURN_IF_ERROR(runtime.CheckSize(out.size()));
  }
  out.append(text.substr(at));
  return runtime.NewString(std::move(out), self.IsMarkup());
}

// The part of the text between the code points `start` and `end` of the arguments at `first` and after it.
struct Window {
  std::string_view text;
  int64_t start;
  bool valid;  // false where start lies beyond the end: not even the empty text is found there
};

absl::StatusOr<Window> BoundWindow(Runtime& runtime, const Value& self, const BoundArgs& bound,
                                   size_t first) {
  const std::string_view text = self.AsString();
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t length, Length(runtime, self));
  int64_t ends[2] = {0, length};
  for (size_t i = 0; i < 2; ++i) {
    if (!bound.Has(first + i) || bound[first + i].IsNone()) continue;
    MOEPOOL_ASSIGN_OR_RETURN(ends[i], bound.Int(first + i, 0));
    if (ends[i] < 0) ends[i] = std::max<int64_t>(ends[i] + length, 0);
  }
  if (ends[0] > length || ends[0] > ends[1]) return Window{"", 0, false};
  const size_t from = ByteOffset(text, ends[0]);
  const size_t bytes = ByteOffset(text.substr(from), std::min(ends[1], length) - ends[0]);
  return Window{text.substr(from, bytes), ends[0], true};
}

ValueOr FindSide(Runtime& runtime, const Value& self, const Args& args, bool from_right, bool must) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"sub", "start", "end"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string needle, bound.String(0, ""));
  MOEPOOL_ASSIGN_OR_RETURN(const Window window, BoundWindow(runtime, self, bound, 1));
  MOEPOOL_RETURN_IF_ERROR(ChargeBackwards(runtime, window.text, from_right ? needle : ""));
  const size_t hit = !window.valid ? std::string_view::npos
                     : from_right  ? window.text.rfind(needle)
                                   : FindText(window.text, needle, 0);
  if (hit != std::string_view::npos) return Value(window.start + CountCodePoints(window.text.substr(0, hit)));
  if (must) return TypeError("substring not found");
  return Value(int64_t{-1});
}
ValueOr Find(Runtime& r, const Value& v, const Args& a) { return FindSide(r, v, a, false, false); }
ValueOr RightFind(Runtime& r, const Value& v, const Args& a) { return FindSide(r, v, a, true, false); }
ValueOr Index(Runtime& r, const Value& v, const Args& a) { return FindSide(r, v, a, false, true); }
ValueOr RightIndex(Runtime& r, const Value& v, const Args& a) { return FindSide(r, v, a, true, true); }

ValueOr Count(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"sub", "start", "end"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string needle, bound.String(0, ""));
  MOEPOOL_ASSIGN_OR_RETURN(const Window window, BoundWindow(runtime, self, bound, 1));
  if (!window.valid) return Value(int64_t{0});
  if (needle.empty()) return Value(CountCodePoints(window.text) + 1);
  int64_t count = 0;
  for (size_t at = FindText(window.text, needle, 0); at != std::string_view::npos;
       at = FindText(window.text, needle, at + needle.size())) {
    ++count;
  }
  return Value(count);
}

ValueOr Affix(Runtime& runtime, const Value& self, const Args& args, bool at_end) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"prefix", "start", "end"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const Window window, BoundWindow(runtime, self, bound, 1));
  std::vector<Value> affixes = {bound[0]};
  if (bound[0].IsList() && bound[0].AsList().kind == ListKind::kTuple) affixes = bound[0].AsList().items;
  for (const Value& affix : affixes) {
    if (affix.IsUndefined()) return UndefinedError(affix);
    if (!affix.IsString()) return TypeError(StrCat("an affix is a string, not a ", affix.TypeName()));
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(affix.AsString().size()));
    const std::string& text = affix.AsString();
    if (window.valid && (at_end ? window.text.ends_with(text) : window.text.starts_with(text)))
      return Value(true);
  }
  return Value(false);
}
ValueOr StartsWith(Runtime& r, const Value& v, const Args& a) { return Affix(r, v, a, false); }
ValueOr EndsWith(Runtime& r, const Value& v, const Args& a) { return Affix(r, v, a, true); }

ValueOr RemovePrefix(Runtime&, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"prefix"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string prefix, bound.String(0, ""));
  std::string_view text = self.AsString();
  if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return Piece(self, text);
}

ValueOr RemoveSuffix(Runtime&, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"suffix"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string suffix, bound.String(0, ""));
  std::string_view text = self.AsString();
  if (text.ends_with(suffix)) text.remove_suffix(suffix.size());
  return Piece(self, text);
}

ValueOr JoinMethod(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"iterable"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, bound[0]));
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].IsString()) continue;
    return TypeError(StrCat("sequence item ", i, ": expected str instance, ", items[i].TypeName(), " found"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const Value list, runtime.NewList(items));
  return FindFilter("join")(runtime, list, Args{{self}, {}});
}

// Which sides of the text are filled to the width; center puts an odd one as CPython does.
ValueOr Pad(Runtime& runtime, const Value& self, const Args& args, bool left, bool right) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"width", "fillchar"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 0));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string fill, bound.String(1, " "));
  if (CountCodePoints(fill) != 1) return TypeError("the fill character must be exactly one character long");
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t length, Length(runtime, self));
  if (width <= length) return self;
  const int64_t missing = width - length;
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(static_cast<size_t>(missing)));
  const int64_t before = left && right ? missing / 2 + (missing & width & 1) : left ? missing : 0;
  std::string out;
  for (int64_t i = 0; i < before; ++i) out += fill;
  out += self.AsString();
  for (int64_t i = before; i < missing; ++i) out += fill;
  return runtime.NewString(std::move(out), self.IsMarkup());
}
ValueOr Center(Runtime& r, const Value& v, const Args& a) { return Pad(r, v, a, true, true); }
ValueOr LeftJustify(Runtime& r, const Value& v, const Args& a) { return Pad(r, v, a, false, true); }
ValueOr RightJustify(Runtime& r, const Value& v, const Args& a) { return Pad(r, v, a, true, false); }

ValueOr ZeroFill(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"width"}, 1));
  const std::string& text = self.AsString();
  const bool is_signed = text.starts_with('-') || text.starts_with('+');
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 0));
  const Args pad{{Value(width - (is_signed ? 1 : 0)), Value::String("0")}, {}};
  MOEPOOL_ASSIGN_OR_RETURN(const Value padded,
                           Pad(runtime, Value::String(text.substr(is_signed)), pad, true, false));
  return Value::String((is_signed ? text.substr(0, 1) : "") + padded.AsString());
}

// Whether there is a character and `predicate` holds for all of them.
template <typename Predicate>
ValueOr All(Runtime& runtime, const Value& self, Predicate predicate) {
  const std::string_view text = self.AsString();
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    at += DecodeAt(text, at, &c);
    if (!predicate(c)) return Value(false);
  }
  return Value(!text.empty());
}
ValueOr IsDigitMethod(Runtime& r, const Value& v, const Args&) { return All(r, v, IsDigit); }
ValueOr IsDecimalMethod(Runtime& r, const Value& v, const Args&) { return All(r, v, IsDecimal); }
ValueOr IsAlphaMethod(Runtime& r, const Value& v, const Args&) { return All(r, v, IsAlpha); }
ValueOr IsAlnum(Runtime& r, const Value& v, const Args&) {
  return All(r, v, [](uint32_t c) { return IsAlpha(c) || IsDigit(c); });
}
ValueOr IsSpaceMethod(Runtime& r, const Value& v, const Args&) { return All(r, v, IsSpace); }
ValueOr IsUpperMethod(Runtime& r, const Value& v, const Args& a) {
  MOEPOOL_ASSIGN_OR_RETURN(const bool holds, FindTest("upper")(r, v, a));
  return Value(holds);
}
ValueOr IsLowerMethod(Runtime& r, const Value& v, const Args& a) {
  MOEPOOL_ASSIGN_OR_RETURN(const bool holds, FindTest("lower")(r, v, a));
  return Value(holds);
}
ValueOr FormatMethod(Runtime& r, const Value& v, const Args& a) { return FormatBraces(r, v.AsString(), a); }

}  // namespace

BuiltinFilter FindStringMethod(std::string_view name) {
  static const auto* const methods = new std::map<std::string_view, BuiltinFilter>{
      {"upper", UpperMethod},
      {"lower", LowerMethod},
      {"casefold", LowerMethod},
      {"capitalize", CapitalizeMethod},
      {"title", TitleMethod},
      {"swapcase", SwapCase},
      {"strip", StripMethod},
      {"lstrip", LeftStrip},
      {"rstrip", RightStrip},
      {"split", Split},
      {"rsplit", RightSplit},
      {"splitlines", SplitLines},
      {"partition", Partition},
      {"rpartition", RightPartition},
      {"replace", Replace},
      {"find", Find},
      {"rfind", RightFind},
      {"index", Index},
      {"rindex", RightIndex},
      {"count", Count},
      {"startswith", StartsWith},
      {"endswith", EndsWith},
      {"removeprefix", RemovePrefix},
      {"removesuffix", RemoveSuffix},
      {"join", JoinMethod},
      {"format", FormatMethod},
      {"center", Center},
      {"ljust", LeftJustify},
      {"rjust", RightJustify},
      {"zfill", ZeroFill},
      {"isdigit", IsDigitMethod},
      {"isnumeric", IsDigitMethod},
      {"isdecimal", IsDecimalMethod},
      {"isalpha", IsAlphaMethod},
      {"isalnum", IsAlnum},
      {"isspace", IsSpaceMethod},
      {"isupper", IsUpperMethod},
      {"islower", IsLowerMethod},
  };
  const auto it = methods->find(name);
  return it == methods->end() ? nullptr : it->second;
}

}  // namespace moepool::jinja
