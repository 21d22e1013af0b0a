// Backward of the whole model: the golden gradients in f32, and central differences in f64 through every kind of layer,
// the auxiliary loss included.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.h"
#include "tests/golden.h"
#include "tests/one_step.h"
#include "tests/plain_model.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

TEST(Gradient, golden) {
  const Golden golden("text01_small");
  const Safetensors want = Safetensors::open(Golden::folder("text01_small") / "golden_grads.safetensors");
  std::vector<int32_t> ids = golden.ints("input_ids");
  ids.resize(300);
  const OneStep<float> step(golden.config, golden.loaded.weights, row_of({ids}), {.window = 300});
  EXPECT_NEAR(step.loss, 5.299697785284265, 2e-6);
  double worst = 0;
  for (const Parameter& p : step.grads.parameters) {
    const StoredTensor& t = want.at(p.checkpoint_name);
    std::vector<float> values(size_t(t.count()));
    read_as(DType::f32, reinterpret_cast<std::byte*>(values.data()), t);
    const float* have = p.view.elements<float>();
    double gap = 0, size = 0;
    for (size_t i = 0; i < values.size(); ++i)
      gap += std::pow(double(have[i]) - double(values[i]), 2), size += std::pow(double(values[i]), 2);
    EXPECT_LE(std::sqrt(gap / size), 1e-5) << p.checkpoint_name;
    worst = std::max(worst, std::sqrt(gap / size));
  }
  RecordProperty("worst", std::to_string(worst));
}

// Along two directions of every tensor, its own gradient and a random one: packed documents that cross the grid.
void expect_central_differences(const ModelConfig& c) {
  TinyModel m(c, DType::f64, 3);
  std::vector<std::vector<int32_t>> documents;
  for (const int64_t length : {1, 70, 29}) {
    documents.emplace_back();
    for (int64_t i = 0; i < length; ++i)
      documents.back().push_back(int32_t(philox(uint64_t(length), uint64_t(i), 0)[0] % 97));
  }
  const PackedRow row = row_of(documents);
  const double alpha = 0.05, h = 1e-5;
  const Balance balance{.window = 50, .scale = alpha / 2};
  const OneStep<double> step(c, m.weights, row, balance);
  EXPECT_GT(step.balance_loss, 0);
  for (size_t i = 0; i < m.weights.parameters.size(); ++i) {
    const Parameter& p = m.weights.parameters[i];
    const size_t n = size_t(p.view.count());
    double* value = p.view.elements<double>();
    const double* gradient = step.grads.parameters[i].view.elements<double>();
    std::vector<double> along(gradient, gradient + n), random(n);
    for (size_t e = 0; e < n; ++e) random[e] = philox(e, i, 2)[0] % 2 ? 1 : -1;
    for (std::vector<double>& direction : {std::ref(along), std::ref(random)}) {
      double length = 0, slope = 0;
      for (const double d : direction) length += d * d;
      if (length == 0) continue;  // an expert that no row chose
      for (double& d : direction) d /= std::sqrt(length);
      for (size_t e = 0; e < n; ++e) slope += direction[e] * gradient[e];
      const std::vector<double> kept(value, value + n);
      const auto loss_at = [&](double by) {
        for (size_t e = 0; e < n; ++e) value[e] = kept[e] + by * direction[e];
        const OneStep<double> there(c, m.weights, row, balance);
        return there.loss + there.balance_loss;
      };
      EXPECT_NEAR((loss_at(h) - loss_at(-h)) / (2 * h), slope, 1e-6 * std::abs(slope) + 3e-9) << p.checkpoint_name;
      std::copy(kept.begin(), kept.end(), value);
    }
  }
}

TEST(Gradient, central_differences_post_norm) { expect_central_differences(tiny_config()); }

TEST(Gradient, central_differences_pre_norm) {
  ModelConfig c = tiny_config();
  c.post_norm = false;
  expect_central_differences(c);
}

TEST(Gradient, central_differences_tied_head) { expect_central_differences(tied_config()); }

// Loss of the training path against the plain model.
void expect_the_plain_models_loss(const ModelConfig& c) {
  const TinyModel m(c, DType::f64, 4);
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < 90; ++i) ids.push_back(int32_t(philox(5, i, 0)[0] % 97));
  const OneStep<double> step(m.config, m.weights, row_of({ids}), {.window = 90});
  EXPECT_NEAR(step.loss, PlainModel(m.config, m.weights).loss(ids), 1e-7);  // decays are rounded where rows are f32
}

TEST(Gradient, loss_is_the_plain_models) {
  expect_the_plain_models_loss(tiny_config());
  expect_the_plain_models_loss(tied_config());
}

}  // namespace
}  // namespace fulgur::tests
