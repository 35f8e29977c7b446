// Objects and arrays.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/utf8.h"
#include "common/constrain/grammar.h"
#include "common/constrain/schema_compiler.h"

namespace moepool {
namespace {

constexpr int64_t kUnbounded = int64_t{1} << 40;

// `{least,most}` as a quantifier.
std::string Times(int64_t least, int64_t most) {
  return most >= kUnbounded ? StrCat("{", least, ",}") : StrCat("{", least, ",", most, "}");
}

// Characters of names that stand for themselves: those of the names that are not declared are such alone, so
// that none can be a declared one in other spelling.
const CodePointSet& PlainName() {
  static const auto* const set =
      new CodePointSet(CodePointSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).Complement());
  return *set;
}

}  // namespace

absl::StatusOr<std::string> SchemaCompiler::Object(const Json& schema, const std::string& at, int depth) {
  const Json more = schema.value("additionalProperties", Json());
  Json properties = schema.value("properties", Json::object());
  if (!properties.is_object()) return SchemaError(at, "properties", "is not an object");
  const Json required_names = schema.value("required", Json::array());
  if (!required_names.is_array()) return SchemaError(at, "required", "is not a list of names");
  // Before they are looked up, which takes long in an object that keeps its order.
  if (required_names.size() + properties.size() > kMaxSchemaPlaces) {
    return SchemaError(at, required_names.empty() ? "properties" : "required",
                       StrCat("is too large: ", properties.size(), " properties and ", required_names.size(),
                              " names of required ones, together at most ", kMaxSchemaPlaces));
  }
  absl::flat_hash_set<std::string> known;
  for (const auto& [name, value] : properties.items()) known.insert(name);
  absl::flat_hash_set<std::string> required;
  for (const Json& one : required_names) {
    if (!one.is_string()) return SchemaError(at, "required", "is not a list of names");
    const auto& name = one.get_ref<const std::string&>();
    if (!required.insert(name).second || known.contains(name)) continue;
    if (more == false) {
      return SchemaError(at, "required",
                         StrCat("\"", name, "\" is not a property, and additionalProperties is false"));
    }
    properties.push_back(Json::object_t::value_type(name, more.is_null() ? Json(true) : more));
  }
  const auto is_required = [&](const std::string& name) { return required.contains(name); };
  if (properties.empty() && more != false && !schema.contains("properties")) {
    return Map(schema, more.is_null() ? Json(true) : more, at, depth);
  }
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t least, Count(schema, "minProperties", 0, at));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t most, Count(schema, "maxProperties", kUnbounded, at));
  if (least > static_cast<int64_t>(required.size())) {
    return SchemaError(at, "minProperties", "is more than the required properties, which is not supported");
  }
  const bool open = !more.is_null() && more != false;
  if (most < static_cast<int64_t>(properties.size()) || (open && most < kUnbounded)) {
    return SchemaError(at, "maxProperties",
                       "is less than the properties that are possible, which is not supported");
  }

  const std::string ws = text_.Use("ws");
  std::vector<std::string> names;
  std::vector<std::pair<std::string, bool>> parts;  // a property behind its first quote, and whether required
  for (const auto& [name, value] : properties.items()) {
    names.push_back(name);
    if (value == false && !is_required(name)) continue;  // must not be there
    MOEPOOL_ASSIGN_OR_RETURN(const std::string rule,
                             Value(value, Down(Down(at, "properties"), name), depth + 1));
    parts.emplace_back(StrCat(GrammarLiteral(JsonText(name).substr(1) + ":"), " ", ws, " ", rule),
                       is_required(name));
  }
  // From the last property to the first: what may come behind the first quote of one, which is this or a
  // later one and all that follows; and what may come behind the one before. No property is begun before its
  // quote, so that thousands of them take part only there.
  std::string from_here;
  std::string rest = ws;
  bool may_end = true;
  if (open) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::string extra, ExtraProperty(more, names, at, depth));
    rest = text_.Add(StrCat("(\",\" ", ws, " \"\\\"\" ", extra, ")* ", ws));
    from_here = text_.Add(StrCat(extra, " ", rest));
  }
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    const auto& [property, must] = *part;
    const bool alone = must || from_here.empty();
    from_here = text_.Add(StrCat(property, " ", rest, alone ? "" : " | ", alone ? "" : from_here));
    may_end = may_end && !must;
    rest = text_.Add(StrCat("\",\" ", ws, " \"\\\"\" ", from_here, may_end ? " | " + ws : ""));
  }
  const std::string all =
      from_here.empty() ? "" : StrCat(" (\"\\\"\" ", from_here, ")", may_end ? "? " : " ");
  return text_.Add(StrCat("\"{\" ", ws, all, " \"}\""));
}

absl::StatusOr<std::string> SchemaCompiler::Map(const Json& schema, const Json& values, const std::string& at,
                                                int depth) {
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t least, Count(schema, "minProperties", 0, at));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t most, Count(schema, "maxProperties", kUnbounded, at));
  if (least > 1) {
    return SchemaError(at, "minProperties",
                       "is more than 1 where names are free, which is not supported: they might be the same");
  }
  if (most < least) return SchemaError(at, "maxProperties", "is less than minProperties");
  const std::string ws = text_.Use("ws");
  if (most == 0) return text_.Add(StrCat("\"{\" ", ws, " \"}\""));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string value,
                           Value(values, Down(at, "additionalProperties"), depth + 1));
  const std::string pair = text_.Add(StrCat(text_.Use("string"), " \":\" ", ws, " ", value));
  const std::string all =
      StrCat(pair, " (\",\" ", ws, " ", pair, ")", Times(0, most >= kUnbounded ? most : most - 1), " ", ws);
  return text_.Add(StrCat("\"{\" ", ws, least == 0 ? StrCat(" (", all, ")?") : " " + all, " \"}\""));
}

absl::StatusOr<std::string> SchemaCompiler::ExtraProperty(const Json& schema,
                                                          const std::vector<std::string>& named,
                                                          const std::string& at, int depth) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string value,
                           Value(schema, Down(at, "additionalProperties"), depth + 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string name, NameOtherThan(named, at));
  return text_.Add(StrCat(name, " \":\" ", text_.Use("ws"), " ", value));
}

// A name and its closing quote, along the tree of the names that it must not be.
absl::StatusOr<std::string> SchemaCompiler::NameOtherThan(const std::vector<std::string>& names,
                                                          const std::string& at) {
  struct Branch {
    bool is_name = false;
    std::map<char32_t, size_t> children;
  };
  std::vector<Branch> tree(1);
  for (const std::string& name : names) {
    size_t branch = 0;
    std::string_view rest = name;
    while (!rest.empty()) {
      const Utf8Step step = NextUtf8(rest);
      if (step.kind != Utf8Kind::kCharacter || !PlainName().Contains(step.code_point)) break;
      rest.remove_prefix(static_cast<size_t>(step.bytes));
      const size_t known = tree[branch].children.try_emplace(step.code_point, tree.size()).first->second;
      if (known == tree.size()) tree.emplace_back();
      branch = known;
      if (tree.size() > kMaxGrammarRules) break;
    }
    if (rest.empty()) tree[branch].is_name = true;  // others need escapes, which no undeclared name has
  }
  const std::string tail = text_.Add(StrCat(GrammarClass(PlainName()), "* \"\\\"\""));
  std::vector<std::string> rules(tree.size());
  for (size_t i = tree.size(); i-- > 0;) {  // children have higher numbers
    if (tree.size() > kMaxGrammarRules || text_.bytes() > kMaxGrammarBytes) {
      return SchemaError(at, "additionalProperties",
                         StrCat("needs a grammar of more than ", kMaxGrammarRules, " rules or ",
                                kMaxGrammarBytes, " bytes to tell other names from those of the properties"));
    }
    std::vector<CodePointRange> taken;
    std::string body = tree[i].is_name ? "" : "\"\\\"\"";
    for (const auto& [c, child] : tree[i].children) {
      const CodePointSet one({{c, c}});
      taken.push_back({c, c});
      body += StrCat(body.empty() ? "" : " | ", GrammarClass(one), " ", rules[child]);
    }
    const CodePointSet others = PlainName().Intersect(CodePointSet(std::move(taken)).Complement());
    body += StrCat(body.empty() ? "" : " | ", GrammarClass(others), " ", tail);
    rules[i] = text_.Add(body);
  }
  return rules[0];
}

absl::StatusOr<std::string> SchemaCompiler::Array(const Json& schema, const std::string& at, int depth) {
  if (schema.value("uniqueItems", Json(false)) != false) {
    return SchemaError(at, "uniqueItems", "is not supported");
  }
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t least, Count(schema, "minItems", 0, at));
  MOEPOOL_ASSIGN_OR_RETURN(int64_t most, Count(schema, "maxItems", kUnbounded, at));
  if (most < least) return SchemaError(at, "maxItems", "is less than minItems");
  const Json prefix = schema.value("prefixItems", Json::array());
  if (!prefix.is_array()) return SchemaError(at, "prefixItems", "is not a list of schemas");
  const auto before = static_cast<int64_t>(prefix.size());
  // As with properties, items beyond those described come only where the schema speaks of them.
  const Json items = schema.value("items", Json(before == 0));
  if (items.is_array()) return SchemaError(at, "items", "is a list, which is not supported: use prefixItems");
  if (items == false) most = std::min(most, before);
  if (most < least) return SchemaError(at, "minItems", "is more than the items that are possible");

  const std::string ws = text_.Use("ws");
  // What follows the items before `i`, from the last to the first.
  std::string rest;
  if (most > before) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::string item, Value(items, Down(at, "items"), depth + 1));
    const std::string next = StrCat("(\",\" ", ws, " ", item, ")");
    const int64_t bound = most >= kUnbounded ? kUnbounded : most - before;
    if (before > 0) {
      rest = text_.Add(next + Times(std::max<int64_t>(least - before, 0), bound));
    } else {
      const std::string all = StrCat(
          item, " ", next, Times(std::max<int64_t>(least - 1, 0), bound >= kUnbounded ? bound : bound - 1));
      rest = least == 0 ? StrCat("(", all, " ", ws, ")?") : StrCat(all, " ", ws);
      return text_.Add(StrCat("\"[\" ", ws, " ", rest, " \"]\""));
    }
  }
  for (int64_t i = std::min(before, most); i-- > 0;) {
    MOEPOOL_ASSIGN_OR_RETURN(
        const std::string item,
        Value(prefix[static_cast<size_t>(i)], Down(Down(at, "prefixItems"), StrCat(i)), depth + 1));
    const std::string one =
        StrCat(i == 0 ? "" : StrCat("\",\" ", ws, " "), item, " ", rest, i == 0 ? " " + ws : "");
    rest = text_.Add(i < least ? one : StrCat("(", one, ")?"));
  }
  return text_.Add(StrCat("\"[\" ", ws, " ", rest, " \"]\""));
}

}  // namespace moepool
