# Altered copies of kernels, which tests must tell from the right ones.
#
# moepool_kernel_mutant(NAME FILE TEXT REPLACEMENT SOURCES...): an object library NAME of SOURCES, of common/kernels/cuda, whose
# launches are in namespace moepool::NAME, with TEXT replaced in FILE of the same folder, a header or one of SOURCES, where it
# stands once.
function(moepool_kernel_mutant name file text replacement)
  set(folder common/kernels/cuda)
  set(original ${CMAKE_SOURCE_DIR}/${folder}/${file})
  set(root ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${original})
  # Whitespace is formatting's.
  file(READ ${original} content)
  string(FIND "${content}" "${text}" first)
  string(FIND "${content}" "${text}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${name}: '${text}' stands in ${file} not once but at ${first} and ${last}")
  endif()
  string(REPLACE "${text}" "${replacement}" content "${content}")
  file(CONFIGURE OUTPUT ${root}/${folder}/${file} CONTENT "${content}" @ONLY)
  list(TRANSFORM ARGN PREPEND ${CMAKE_SOURCE_DIR}/${folder}/ OUTPUT_VARIABLE sources)
  list(TRANSFORM sources REPLACE "^${CMAKE_SOURCE_DIR}/${folder}/${file}$" ${root}/${folder}/${file})
  add_library(${name} OBJECT ${sources})
  set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX)
  target_include_directories(${name} BEFORE PRIVATE ${root} ${CMAKE_SOURCE_DIR}/tests/support/simt)
  target_compile_definitions(${name} PRIVATE SIMT_TARGET=${name})
endfunction()
