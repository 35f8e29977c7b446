// Macros that pass an absl::Status on, and one that stops the process on a bug of our own.
// They stand here because the abseil that Debian 12 ships has none.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the status of `expr` to the caller unless it is OK.
#define MOEPOOL_RETURN_IF_ERROR(expr)                                                         \
  do {                                                                                        \
    if (absl::Status moepool_status_ = (expr); !moepool_status_.ok()) return moepool_status_; \
  } while (false)

#define MOEPOOL_CONCAT_INNER_(a, b) a##b
#define MOEPOOL_CONCAT_(a, b) MOEPOOL_CONCAT_INNER_(a, b)

// `MOEPOOL_ASSIGN_OR_RETURN(auto x, F());` declares x from the value of F(), or returns its status.
#define MOEPOOL_ASSIGN_OR_RETURN(lhs, expr) \
  MOEPOOL_ASSIGN_OR_RETURN_IMPL_(MOEPOOL_CONCAT_(moepool_statusor_, __LINE__), lhs, expr)
#define MOEPOOL_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                   \
  if (!tmp.ok()) return std::move(tmp).status();       \
  lhs = std::move(tmp).value()

// For our own bugs alone; never for input. Stays on in release builds.
#define MOEPOOL_CHECK(cond)                                                         \
  do {                                                                              \
    if (!(cond)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #cond); \
      std::abort();                                                                 \
    }                                                                               \
  } while (false)
