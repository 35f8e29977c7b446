#include "common/metrics/metrics.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <ctime>

#include "common/metrics/metrics_endpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;

std::string Get(uint16_t port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string response;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) response.append(buffer, n);
  close(fd);
  return response;
}

TEST(MetricsTest, Exposition) {
  Metrics metrics;
  metrics.Counter("generation_tokens_total", "Tokens generated.").Increment(3);
  metrics.Counter("request_success_total", "Ended well.", {{"finished_reason", "stop"}}).Increment();
  metrics.Gauge("num_requests_running", "Running.").Set(2);
  metrics.Histogram("time_to_first_token_seconds", "First.", {0.1, 1}).Observe(0.5);
  // The same name and labels are the same metric.
  metrics.Counter("generation_tokens_total", "Tokens generated.").Increment();
  const std::string text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("# HELP moepool_generation_tokens_total Tokens generated.\n"
                              "# TYPE moepool_generation_tokens_total counter\n"
                              "moepool_generation_tokens_total 4"));
  EXPECT_THAT(text, HasSubstr("moepool_request_success_total{finished_reason=\"stop\"} 1"));
  EXPECT_THAT(text, HasSubstr("moepool_num_requests_running 2"));
  EXPECT_THAT(text, HasSubstr("moepool_time_to_first_token_seconds_bucket{le=\"0.1\"} 0"));
  EXPECT_THAT(text, HasSubstr("moepool_time_to_first_token_seconds_bucket{le=\"+Inf\"} 1"));
}

TEST(MetricsTest, OfTheProcess) {
  Metrics metrics;
  AddProcessInfo(&metrics, "router");
  const auto value = [&metrics](const std::string& name) {
    const std::string text = metrics.Expose();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  };
  EXPECT_THAT(metrics.Expose(), HasSubstr("moepool_build_info{process=\"router\",version=\""));
  EXPECT_THAT(metrics.Expose(), HasSubstr("# TYPE process_cpu_seconds_total counter\n"));

  const double cpu_s = value("process_cpu_seconds_total");
  EXPECT_GE(cpu_s, 0);
  rusage usage = {};
  const auto used_s = [&usage] {
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  };
  for (const double begin_s = used_s(); used_s() < begin_s + 0.1;) {
  }
  EXPECT_GT(value("process_cpu_seconds_total"), cpu_s);
  EXPECT_LE(value("process_cpu_seconds_total"), used_s() + 0.02);  // in ticks of 10 ms

  const double descriptors = value("process_open_fds");
  EXPECT_GE(descriptors, 3);
  const int fd = dup(0);
  EXPECT_EQ(value("process_open_fds"), descriptors + 1);
  close(fd);
  EXPECT_GE(value("process_max_fds"), descriptors);
  EXPECT_EQ(value("process_threads"), 1);

  // Of as many pages as were written to; the rest of the process may give some back meanwhile.
  const double resident = value("process_resident_memory_bytes");
  std::vector<char> memory(64 << 20, 1);
  EXPECT_GT(value("process_resident_memory_bytes"), resident + 0.9 * static_cast<double>(memory.size()));
  EXPECT_GT(value("process_virtual_memory_bytes"), value("process_resident_memory_bytes"));
  EXPECT_LT(std::abs(value("process_start_time_seconds") - static_cast<double>(time(nullptr))), 3600);
}

TEST(MetricsTest, BoundsAscend) {
  for (const auto* bounds :
       {&RequestSecondsBounds(), &FirstTokenSecondsBounds(), &TokenSecondsBounds(), &TokensBounds()}) {
    EXPECT_TRUE(std::is_sorted(bounds->begin(), bounds->end()));
  }
}

// What others' dashboards are made for.
TEST(MetricsTest, BoundsHoldThoseOfTheConventions) {
  const auto holds = [](const std::vector<double>& bounds, const std::vector<double>& conventions) {
    return std::includes(bounds.begin(), bounds.end(), conventions.begin(), conventions.end());
  };
  EXPECT_TRUE(holds(RequestSecondsBounds(), {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12,
                                             10.24, 20.48, 40.96, 81.92}));
  EXPECT_TRUE(holds(FirstTokenSecondsBounds(), {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                                                0.75, 1.0, 2.5, 5.0, 7.5, 10.0}));
  EXPECT_TRUE(
      holds(TokenSecondsBounds(), {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5}));
  EXPECT_TRUE(holds(TokensBounds(), {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}));
}

TEST(MetricsEndpointTest, ServesOnItsRealPort) {
  Metrics metrics;
  metrics.Gauge("up_test", "Test.").Set(5);
  const auto endpoint = MetricsEndpoint::Start({"127.0.0.1", 0}, metrics);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  ASSERT_NE((*endpoint)->address().port, 0);
  EXPECT_THAT(Get((*endpoint)->address().port, "/metrics"), HasSubstr("moepool_up_test 5"));
  EXPECT_THAT(Get((*endpoint)->address().port, "/"), HasSubstr("404"));
  const auto second = MetricsEndpoint::Start((*endpoint)->address(), metrics);
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*endpoint)->address().ToString()));
}

}  // namespace
}  // namespace moepool
