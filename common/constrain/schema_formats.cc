#include "common/constrain/schema_formats.h"

#include <algorithm>
#include <string>

#include "common/base/str.h"

namespace moepool {
namespace {

// RFC 3339, years 0001 to 9999, without leap seconds.
#define MOEPOOL_YEAR R"(([0-9]{3} [1-9] | [0-9]{2} [1-9] "0" | [0-9] [1-9] "00" | [1-9] "000"))"
#define MOEPOOL_LEAP_YEAR                                 \
  R"(([0-9]{2} ("0" [48] | [2468] [048] | [13579] [26]))" \
  R"( | ("0" [48] | [2468] [048] | [13579] [26]) "00"))"
#define MOEPOOL_DATE                                                                                  \
  "(" MOEPOOL_YEAR                                                                                    \
  R"( "-" (("01" | "03" | "05" | "07" | "08" | "10" | "12") "-" ("0" [1-9] | [12] [0-9] | "3" [01]))" \
  R"( | ("04" | "06" | "09" | "11") "-" ("0" [1-9] | [12] [0-9] | "30"))"                             \
  R"( | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])) | )" MOEPOOL_LEAP_YEAR R"( "-02-29"))"
#define MOEPOOL_HOUR R"(([01] [0-9] | "2" [0-3]))"
#define MOEPOOL_TIME                                                                              \
  MOEPOOL_HOUR R"( ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? ("Z" | [+\-] )" MOEPOOL_HOUR \
               R"( ":" [0-5] [0-9]))"
#define MOEPOOL_LABEL R"([A-Za-z0-9] ([A-Za-z0-9\-]{0,61} [A-Za-z0-9])?)"
#define MOEPOOL_HOST "(" MOEPOOL_LABEL " (\".\" " MOEPOOL_LABEL "){0,2})"
#define MOEPOOL_OCTET R"(("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9]{2} | [1-9] [0-9] | [0-9]))"
#define MOEPOOL_IPV4 "(" MOEPOOL_OCTET " (\".\" " MOEPOOL_OCTET "){3})"
#define MOEPOOL_UUID(version)                       \
  R"([0-9A-Fa-f]{8} "-" [0-9A-Fa-f]{4} "-)" version \
  "\" "                                             \
  R"([0-9A-Fa-f]{3} "-" [89ABab] [0-9A-Fa-f]{3} "-" [0-9A-Fa-f]{12})"
#define MOEPOOL_GROUP "[0-9A-Fa-f]{1,4}"
#define MOEPOOL_ATOM R"([A-Za-z0-9!#$%&'*+/=?\^_`{|}~\-]{1,20})"

struct Format {
  std::string_view name;
  std::string_view grammar;
};

constexpr Format kFormats[] = {
    {"date", MOEPOOL_DATE},
    {"time", MOEPOOL_TIME},
    {"date-time", MOEPOOL_DATE " \"T\" " MOEPOOL_TIME},
    // ISO 8601 as in RFC 3339, appendix A.
    {"duration",
     R"("P" ([0-9]{1,9} "W" | )"
     R"(([0-9]{1,9} ("Y" ([0-9]{1,9} "M" ([0-9]{1,9} "D")?)? | "M" ([0-9]{1,9} "D")? | "D"))"
     R"( ("T" [0-9]{1,9} ("H" ([0-9]{1,9} "M" ([0-9]{1,9} "S")?)? | "M" ([0-9]{1,9} "S")? | "S"))?)"
     R"( | "T" [0-9]{1,9} ("H" ([0-9]{1,9} "M" ([0-9]{1,9} "S")?)? | "M" ([0-9]{1,9} "S")? | "S"))))"},
    {"uuid", R"([0-9A-Fa-f]{8} ("-" [0-9A-Fa-f]{4}){3} "-" [0-9A-Fa-f]{12})"},
    {"uuid1", MOEPOOL_UUID("1")},
    {"uuid3", MOEPOOL_UUID("3")},
    {"uuid4", MOEPOOL_UUID("4")},
    {"uuid5", MOEPOOL_UUID("5")},
    {"uuid7", MOEPOOL_UUID("7")},
    {"ipv4", MOEPOOL_IPV4},
    // Eight groups, or fewer around one "::" that stands for two or more.
    {"ipv6", MOEPOOL_GROUP " (\":\" " MOEPOOL_GROUP "){7}"
                           " | (" MOEPOOL_GROUP " (\":\" " MOEPOOL_GROUP "){0,2})? \"::\" (" MOEPOOL_GROUP
                           " (\":\" " MOEPOOL_GROUP "){0,2})?"},
    // Base64, RFC 4648.
    {"byte", R"(([A-Za-z0-9+/]{4})* ([A-Za-z0-9+/]{2} "==" | [A-Za-z0-9+/]{3} "=")?)"},
    {"hostname", MOEPOOL_HOST},
    {"email", MOEPOOL_ATOM " (\".\" " MOEPOOL_ATOM "){0,2} \"@\" " MOEPOOL_HOST},
    {"uri", R"("http" "s"? "://" )" MOEPOOL_HOST
            R"( (":" [1-9] [0-9]{0,3})? ("/" ([A-Za-z0-9._~!$&'()*+,;=:@\-] | "%" [0-9A-Fa-f]{2})*)*)"
            R"( ("?" ([A-Za-z0-9._~!$&'()*+,;=:@/?\-] | "%" [0-9A-Fa-f]{2})*)?)"
            R"( ("#" ([A-Za-z0-9._~!$&'()*+,;=:@/?\-] | "%" [0-9A-Fa-f]{2})*)?)"},
};

// What pydantic and OpenAPI write where a string is of a kind that has no form of its own.
constexpr std::string_view kFreeFormats[] = {"password", "path", "file-path", "directory-path", "multi-line"};

}  // namespace

bool IsFreeFormat(std::string_view name) {
  return std::find(std::begin(kFreeFormats), std::end(kFreeFormats), name) != std::end(kFreeFormats);
}

std::string FormatToGrammar(std::string_view name) {
  for (const Format& format : kFormats) {
    if (format.name == name) return StrCat("(", format.grammar, ")");
  }
  return "";
}

std::string KnownFormats() {
  std::string names;
  for (const Format& format : kFormats) names += StrCat(names.empty() ? "" : ", ", format.name);
  return names;
}

}  // namespace moepool
