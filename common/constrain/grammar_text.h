// A grammar's text as it grows, rule by rule, with the rules that all JSON shares.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace moepool {

class GrammarText {
 public:
  // A new rule of this body; its name.
  std::string Add(std::string_view body);
  // The same in two steps, for a rule that its own body names.
  std::string Reserve();
  void Define(std::string_view name, std::string_view body);
  // One of the rules that all JSON shares: ws, char, hex, unit, string, integer, number, boolean, null,
  // value, object, array. Returns the name.
  std::string Use(std::string_view name);

  size_t bytes() const { return text_.size(); }
  // The whole grammar.
  std::string Finish(std::string_view root);

 private:
  std::string text_;
  std::set<std::string, std::less<>> used_;
  int rules_ = 0;
};

}  // namespace moepool
