// The threads of an HTTP server, and how others do their work for them.
#pragma once

#include <utility>

#include "boost/asio/execution/blocking.hpp"
#include "boost/asio/query.hpp"
#include "boost/asio/require.hpp"

namespace moepool {

// Whether this thread runs an io_context of an HTTP server.
inline thread_local bool is_io_thread = false;

// An io_context's executor of which what may run at once does so in any other thread too, so that what a
// stream of tokens brings is written to its socket by the thread that brings it. Under a strand, which still
// runs one handler at a time: the others, those that wait for the socket among them, go to the I/O threads.
template <typename Inner>
class LendingExecutor {
 public:
  explicit LendingExecutor(Inner inner) : inner_(std::move(inner)) {}

  template <typename Property>
  requires boost::asio::can_query_v<const Inner&, Property>
  decltype(auto) query(const Property& property) const noexcept {
    return boost::asio::query(inner_, property);
  }

  template <typename Property>
  requires boost::asio::can_require_v<const Inner&, Property>
  auto require(const Property& property) const {
    return LendingExecutor<std::decay_t<decltype(boost::asio::require(inner_, property))>>(
        boost::asio::require(inner_, property));
  }

  template <typename Function>
  void execute(Function&& function) const {
    namespace execution = boost::asio::execution;
    if (is_io_thread || boost::asio::query(inner_, execution::blocking) == execution::blocking.never) {
      inner_.execute(std::forward<Function>(function));
    } else {
      std::decay_t<Function>(std::forward<Function>(function))();
    }
  }

  bool operator==(const LendingExecutor& other) const noexcept { return inner_ == other.inner_; }
  bool operator!=(const LendingExecutor& other) const noexcept { return !(*this == other); }

 private:
  Inner inner_;
};

}  // namespace moepool
