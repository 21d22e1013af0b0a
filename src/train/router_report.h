// What the routers did in a step, read from their sums (model/model.h).
#pragma once
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "model/model.h"

namespace fulgur {

struct RouterReport {
  double balance_loss = 0,
         z_loss = 0;              // as they were added to the loss: means over windows and tokens, summed over layers
  double entropy = 0;             // of a token's probabilities, in nats; the mean over tokens and layers
  double entropy_normalised = 0;  // divided by log(experts): 1 where all experts are equally likely
  double drop_rate = 0;           // dropped choices / choices
  std::array<double, RouterSums::kParts> drop_rate_by_position{};  // in equal parts of a window; NaN: no token is there
  std::vector<double> load;  // choices of each expert, the dropped ones included, over the experts' mean; all layers
  double load_max = 0;       // the greatest load of one expert in one layer, over the mean
  std::vector<double> layer_entropy_normalised;   // [layers]
  std::vector<std::pair<int64_t, int64_t>> idle;  // layer and expert that no token chose
};

// sums: [layers, RouterSums::columns], of the whole step. window: rows.
RouterReport router_report(const std::vector<double>& sums, const ModelConfig& config, int64_t window);

// Under the keys of metrics.jsonl (docs/formats.md).
void add_metrics(std::vector<std::pair<std::string, double>>& metrics, const RouterReport& report);
// Of the single layers, where health is measured.
void add_layer_metrics(std::vector<std::pair<std::string, double>>& metrics, const RouterReport& report);

}  // namespace fulgur
