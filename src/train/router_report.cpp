#include "train/router_report.h"

#include <algorithm>
#include <cmath>

namespace fulgur {

RouterReport router_report(const std::vector<double>& sums, const ModelConfig& config, int64_t window) {
  using Sums = RouterSums;
  RouterReport report;
  report.load.resize(size_t(config.experts));
  double choices = 0, dropped = 0, most = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const double* sum = sums.data() + layer * Sums::columns(config.experts);
    report.balance_loss += sum[Sums::balance_loss], report.z_loss += sum[Sums::z_loss];
    report.entropy += sum[Sums::entropy];
    for (int64_t part = 0; part < Sums::kParts; ++part)
      report.drop_rate_by_position[size_t(part)] += sum[Sums::dropped + part], dropped += sum[Sums::dropped + part];
    for (int64_t e = 0; e < config.experts; ++e) {
      report.load[size_t(e)] += sum[Sums::load + e], choices += sum[Sums::load + e];
      most = std::max(most, sum[Sums::load + e]);
      if (sum[Sums::load + e] == 0) report.idle.emplace_back(layer, e);
    }
    report.layer_entropy_normalised.push_back(sum[Sums::entropy]);
  }
  const double k = double(config.experts_per_token), per_window = choices / double(window);  // of each position
  for (int64_t part = 0, position = 0; part < Sums::kParts; ++part) {
    const int64_t first = position;
    while (position < window && position * Sums::kParts / window == part) ++position;
    report.drop_rate_by_position[size_t(part)] /= double(position - first) * per_window;
  }
  for (double& load : report.load) load *= double(config.experts) / choices;
  report.load_max = most * double(config.experts * config.layers) / choices;
  report.entropy *= k / choices;
  report.entropy_normalised = config.experts > 1 ? report.entropy / std::log(double(config.experts)) : 0;
  for (double& entropy : report.layer_entropy_normalised)
    entropy *= config.experts > 1 ? k * double(config.layers) / choices / std::log(double(config.experts)) : 0;
  report.drop_rate = dropped / choices;
  return report;
}

void add_metrics(std::vector<std::pair<std::string, double>>& metrics, const RouterReport& report) {
  metrics.insert(metrics.end(), {{"balance_loss", report.balance_loss},
                                 {"z_loss", report.z_loss},
                                 {"router_entropy", report.entropy},
                                 {"router_entropy_normalised", report.entropy_normalised},
                                 {"expert_load_max", report.load_max},
                                 {"drop_rate", report.drop_rate}});
  for (size_t part = 0; part < report.drop_rate_by_position.size(); ++part)
    metrics.emplace_back("drop_rate_by_position_" + std::to_string(part), report.drop_rate_by_position[part]);
  for (size_t e = 0; e < report.load.size(); ++e)
    metrics.emplace_back("expert_load_" + std::to_string(e), report.load[e]);
}

void add_layer_metrics(std::vector<std::pair<std::string, double>>& metrics, const RouterReport& report) {
  for (size_t i = 0; i < report.layer_entropy_normalised.size(); ++i)
    metrics.emplace_back("router_entropy_normalised_" + std::to_string(i), report.layer_entropy_normalised[i]);
  metrics.emplace_back("idle_experts", double(report.idle.size()));
  for (const auto& [layer, expert] : report.idle)
    metrics.emplace_back("idle_expert_" + std::to_string(layer) + "_" + std::to_string(expert), 1);
}

}  // namespace fulgur
