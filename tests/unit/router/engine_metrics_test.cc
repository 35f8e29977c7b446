#include "router/engine_metrics.h"

#include <map>
#include <set>

#include "common/metrics/metrics.h"
#include "router/metric_families.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

std::string LabelsOf(const ClientMetric& metric) {
  std::string text;
  for (const ClientMetric::Label& label : metric.label) text += label.name + "=" + label.value + ";";
  return text;
}

// Families by name; each once, with a help text and no sample twice.
std::map<std::string, MetricFamily> ByName(const std::vector<MetricFamily>& families) {
  std::map<std::string, MetricFamily> by_name;
  for (const MetricFamily& family : families) {
    EXPECT_TRUE(by_name.emplace(family.name, family).second) << family.name << " twice";
    EXPECT_FALSE(family.help.empty()) << family.name;
    std::set<std::string> samples;
    for (const ClientMetric& metric : family.metric) {
      EXPECT_TRUE(samples.insert(LabelsOf(metric)).second) << family.name << LabelsOf(metric);
    }
  }
  return by_name;
}

class EngineMetricsTest : public EngineTest {
 protected:
  // Local workers, whose exchanges are counted.
  void StartLocal() {
    Start(MixtralSpec());
    engine_.reset();
    EngineOptions options;
    options.kv_bytes = 4 << 20;
    engine_ = Engine::Create(backend_.get(), source_, local_.get(), options).value();
  }
};

TEST_F(EngineMetricsTest, TokensByExpertAndLoadByLayer) {
  StartLocal();
  Run(Request(40, 5));
  ASSERT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  auto families = ByName(EngineCollector(engine_.get()).Collect());
  const ModelConfig& config = source_->Config();
  const std::vector<ClientMetric>& tokens = families.at("moepool_expert_tokens_total").metric;
  ASSERT_EQ(tokens.size(), static_cast<size_t>(config.layers * config.experts));
  std::map<std::string, double> of_layer;
  for (const ClientMetric& metric : tokens) {
    ASSERT_EQ(metric.label.size(), 2u);
    EXPECT_EQ(metric.label[0].name, "layer");
    EXPECT_EQ(metric.label[1].name, "expert");
    of_layer[metric.label[0].value] += metric.counter.value;
  }
  for (const auto& [layer, sum] : of_layer) EXPECT_EQ(sum, 44.0 * config.experts_per_token) << layer;
  const MetricFamily& ratios = families.at("moepool_layer_load_ratio");
  ASSERT_EQ(ratios.metric.size(), static_cast<size_t>(config.layers));
  for (const ClientMetric& metric : ratios.metric) {
    EXPECT_GE(metric.gauge.value, 1);
    EXPECT_LE(metric.gauge.value, 2);
  }
  const ClientMetric::Histogram& parts = families.at("moepool_exchange_parts_per_row").metric.at(0).histogram;
  EXPECT_EQ(parts.sample_count, 44u * static_cast<uint64_t>(config.layers));
  EXPECT_EQ(parts.sample_sum, families.at("moepool_exchange_parts_total").metric.at(0).counter.value);
  EXPECT_EQ(families.at("moepool_exchange_retries_total").metric.size(), kRetryReasons);
  // Every worker has its own series of everything that is by worker.
  for (const char* name : {"moepool_worker_expert_bytes", "moepool_worker_memory_limit_bytes",
                           "moepool_worker_dispatch_seconds", "moepool_worker_combine_seconds",
                           "moepool_worker_round_trip_seconds", "moepool_exchange_sent_bytes_total",
                           "moepool_exchange_received_bytes_total", "moepool_worker_busy_ratio"}) {
    ASSERT_EQ(families.at(name).metric.size(), 2u) << name;
    EXPECT_EQ(families.at(name).metric[0].label.at(0).name, "worker");
    EXPECT_EQ(families.at(name).metric[0].label.at(0).value, "local-0");
  }
  const ClientMetric::Histogram& dispatch =
      families.at("moepool_worker_dispatch_seconds").metric.at(1).histogram;
  EXPECT_EQ(dispatch.sample_count, families.at("moepool_worker_dispatches_total").metric.at(1).counter.value);
  EXPECT_EQ(dispatch.bucket.back().cumulative_count, dispatch.sample_count);
  EXPECT_LE(dispatch.bucket.size(), 25u);
}

TEST_F(EngineMetricsTest, ExpertsAreLeftOutWhereThereAreTooMany) {
  StartLocal();
  const int64_t experts = int64_t{source_->Config().layers} * source_->Config().experts;
  for (const int64_t most : {int64_t{0}, experts - 1, experts}) {
    const auto families = ByName(EngineCollector(engine_.get(), most).Collect());
    EXPECT_EQ(families.contains("moepool_expert_tokens_total"), most == experts) << most;
    EXPECT_TRUE(families.contains("moepool_layer_load_ratio"));
  }
}

// A pool of workers that a test names.
class NamedPool : public ExpertPool {
 public:
  std::shared_ptr<const RoutingTable> Routes() override { return nullptr; }
  std::string WaitingFor() override { return "workers"; }
  void ReportLoss(WorkerId, const absl::Status&) override {}
  void ReportExchanges(std::span<const ExchangeReport>) override {}
  std::vector<PoolWorkerInfo> Workers() override {
    std::vector<PoolWorkerInfo> workers;
    for (const std::string& name : names) {
      PoolWorkerInfo& worker = workers.emplace_back();
      worker.id = workers.size();
      worker.name = name;
    }
    return workers;
  }
  std::vector<std::string> names;
};

TEST_F(EngineMetricsTest, SeriesComeAndGoWithTheirWorkersAndAreNeverTwice) {
  StartLocal();
  engine_.reset();
  NamedPool pool;
  EngineOptions options;
  options.kv_bytes = 4 << 20;
  engine_ = Engine::Create(backend_.get(), source_, &pool, options).value();
  const EngineCollector collector(engine_.get());
  EXPECT_FALSE(ByName(collector.Collect()).contains("moepool_worker_expert_bytes"));
  pool.names = {"a", "b", "a"};
  std::vector<std::string> labels;
  auto families = ByName(collector.Collect());
  for (const ClientMetric& metric : families.at("moepool_worker_expert_bytes").metric) {
    labels.push_back(metric.label.at(0).value);
  }
  EXPECT_EQ(labels, (std::vector<std::string>{"a#1", "b", "a#3"}));
  pool.names = {"b"};
  families = ByName(collector.Collect());
  EXPECT_EQ(families.at("moepool_worker_expert_bytes").metric.size(), 1u);
  EXPECT_EQ(families.at("moepool_pool_ready").metric.at(0).gauge.value, 0);
  EXPECT_EQ(families.at("moepool_layer_load_ratio").metric.at(0).gauge.value, 0);
  engine_.reset();  // before its pool
}

TEST(MetricFamiliesTest, HistogramsAreCumulative) {
  MetricFamilies families;
  TimeHistogram times;
  for (const double seconds : {1e-6, 1e-5, 0.0011, 0.9, 1.0, 5.0}) times.Add(seconds);
  families.Times("times_seconds", "T.", times, 5, {{"worker", "w"}});
  constexpr int kBounds[] = {1, 2, 4};
  const std::vector<uint64_t> counts = {0, 5, 2, 1, 0, 3};
  families.Sizes("sizes", "S.", counts, 99, kBounds);
  const std::vector<MetricFamily> made = families.Take();
  const ClientMetric::Histogram& t = made.at(0).metric.at(0).histogram;
  EXPECT_EQ(t.sample_count, 6u);
  EXPECT_EQ(t.bucket.front().cumulative_count, 2u);
  EXPECT_DOUBLE_EQ(t.bucket.front().upper_bound, 1e-5);
  EXPECT_DOUBLE_EQ(t.bucket[t.bucket.size() - 2].upper_bound, 1);
  EXPECT_EQ(t.bucket[t.bucket.size() - 2].cumulative_count, 5u);
  EXPECT_EQ(t.bucket.back().cumulative_count, 6u);
  const ClientMetric::Histogram& s = made.at(1).metric.at(0).histogram;
  std::vector<uint64_t> cumulative;
  for (const auto& bucket : s.bucket) cumulative.push_back(bucket.cumulative_count);
  EXPECT_EQ(cumulative, (std::vector<uint64_t>{5, 7, 8, 11}));
  EXPECT_EQ(s.sample_sum, 99);
}

}  // namespace
}  // namespace moepool
