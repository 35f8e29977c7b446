# moepool_library(NAME [GRPC] SRCS ... DEPS ...): a static library of sources listed by name. GRPC: left out of a core-only
# build.
function(moepool_library name)
  cmake_parse_arguments(ARG "GRPC" "" "SRCS;DEPS" ${ARGN})
  if(ARG_GRPC AND MOEPOOL_CORE_ONLY)
    return()
  endif()
  add_library(${name} STATIC ${ARG_SRCS})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
endfunction()

# moepool_test(NAME [GRPC] [LABELS ...] SRCS ... DEPS ...): a GoogleTest binary and a ctest of the same name. Labels:
#   nightly       left to tests/run.sh --nightly
#   whole_models  runs for minutes and shows a sanitizer nothing that smaller tests do not; so do
#   mutants       altered copies of the code, whose faults may be faults of memory: neither is built under sanitizers
function(moepool_test name)
  cmake_parse_arguments(ARG "GRPC" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(ARG_GRPC AND MOEPOOL_CORE_ONLY)
    return()
  endif()
  if(MOEPOOL_SANITIZE AND ARG_LABELS MATCHES "nightly|whole_models|mutants")
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main Threads::Threads)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  if(ARG_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}")
  endif()
endfunction()
