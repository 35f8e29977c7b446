pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
moepool_library(moepool_template
  SRCS chat_template.cc jinja_arithmetic.cc jinja_builtins.cc jinja_container_methods.cc jinja_eval.cc jinja_exec.cc
       jinja_expression_parser.cc jinja_format.cc jinja_globals.cc jinja_json.cc jinja_lexer.cc jinja_list_filters.cc
       jinja_loop.cc jinja_parser.cc jinja_postfix_parser.cc jinja_runtime.cc jinja_select_filters.cc jinja_string_methods.cc jinja_tests.cc
       jinja_text_filters.cc jinja_unicode.cc jinja_value.cc
  DEPS moepool_base nlohmann_json::nlohmann_json absl::strings absl::str_format absl::time absl::status absl::statusor
       PkgConfig::ICU)
