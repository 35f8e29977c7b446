// One schema at a time into rules. A value of each place in the schema is a rule; what $ref names is one rule
// wherever it is named, so that a recursive schema is a recursive grammar.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/constrain/grammar_text.h"
#include "common/constrain/schema_merge.h"

namespace moepool {

inline constexpr int kMaxSchemaPlaces = 20'000;
// Values of a schema that are copied or compared where schemas are merged or told apart.
inline constexpr int64_t kMaxSchemaWork = 2'000'000;

class SchemaCompiler {
 public:
  // Both outlive the compiler. `root` is what $ref looks into.
  SchemaCompiler(const Json& root, GrammarText* text) : root_(root), text_(*text) {}

  // An expression for the values of the whole schema.
  absl::StatusOr<std::string> Compile() { return Value(root_, "#", 0); }

 private:
  using Expression = absl::StatusOr<std::string>;

  // `at` is a JSON pointer to `schema`, for messages.
  Expression Value(const Json& schema, const std::string& at, int depth);
  Expression Keywords(const Json& schema, const std::string& at, int depth);
  Expression Reference(const Json& schema, const std::string& at, int depth);
  Expression Merged(const Json& schema, const std::string& at, int depth);
  Expression Alternatives(const Json& schema, const std::string& keyword, const std::string& at, int depth);
  absl::StatusOr<Json> Merge(const Json& a, const Json& b, const std::string& at);
  // InvalidArgument where all that was spent is more than kMaxSchemaWork.
  absl::Status Spend(int64_t work, const std::string& at);
  Expression Values(const Json& schema, const std::string& at);
  Expression OfType(const std::string& type, const Json& schema, const std::string& at, int depth);

  // schema_containers.cc
  Expression Object(const Json& schema, const std::string& at, int depth);
  Expression Map(const Json& schema, const Json& values, const std::string& at, int depth);
  Expression Array(const Json& schema, const std::string& at, int depth);
  // A property of another name than those, behind its first quote.
  Expression ExtraProperty(const Json& schema, const std::vector<std::string>& named, const std::string& at,
                           int depth);
  Expression NameOtherThan(const std::vector<std::string>& names, const std::string& at);

  // schema_scalars.cc
  Expression String(const Json& schema, const std::string& at);
  Expression Number(const Json& schema, bool whole, const std::string& at);

  // The schema that `schema` names where it is but a $ref, otherwise itself.
  const Json& Target(const Json& schema) const;
  absl::StatusOr<const Json*> Find(const std::string& reference, const std::string& at) const;
  // A number of things, from 0 to 2^30.
  absl::StatusOr<int64_t> Count(const Json& schema, const char* keyword, int64_t otherwise,
                                const std::string& at) const;

  const Json& root_;
  GrammarText& text_;
  std::map<std::string, std::string> rules_;  // by $ref
  int places_ = 0;
  int64_t work_ = 0;
};

// InvalidArgument: what is wrong with `keyword` of the schema at `at`.
absl::Status SchemaError(const std::string& at, std::string_view keyword, std::string_view what);
// One step down a JSON pointer.
std::string Down(const std::string& at, std::string_view step);
// A value as JSON text.
std::string JsonText(const Json& value);

}  // namespace moepool
