#include "tests/plain_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fulgur::tests {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Slope of a head: 2^(-8(j+1)/n) for a power of two, ALiBi's interpolation else, falling with the layer.
double slope(int64_t heads, int64_t head, int64_t layer, int64_t layers) {
  int64_t n = 1;
  while (n * 2 <= heads) n *= 2;
  const double base = head < n ? std::pow(2.0, -8.0 * double(head + 1) / double(n))
                               : std::pow(2.0, -8.0 * double(2 * (head - n) + 1) / double(2 * n));
  return base * ((layers > 1 ? 1 - double(layer) / double(layers - 1) : 1) + 1e-5);
}

}  // namespace

PlainModel::PlainModel(const ModelConfig& config, const ModelWeights& weights) : config_(config) {
  for (const Parameter& p : weights.parameters) {
    Vector& values = weights_[p.checkpoint_name];
    for (int64_t i = 0; i < p.view.count(); ++i)
      values.push_back(p.view.dtype == DType::f64 ? p.view.elements<double>()[i] : double(p.view.elements<float>()[i]));
    columns_[p.checkpoint_name] = p.view.dim(-1);
  }
}

Vector PlainModel::times(const std::string& name, const Vector& x) const {
  const Vector& w = weights_.at(name);
  const int64_t in = columns_.at(name), out = int64_t(w.size()) / in;
  Vector y(static_cast<size_t>(out));
  for (int64_t o = 0; o < out; ++o) y[size_t(o)] = dot(&w[size_t(o * in)], x.data(), in);
  return y;
}

Vector PlainModel::norm(const std::string& name, const Vector& x, double eps) const {
  const Vector& w = weights_.at(name);
  const double scale = 1 / std::sqrt(dot(x.data(), x.data(), int64_t(x.size())) / double(x.size()) + eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * w[i];
  return y;
}

Rows PlainModel::lightning(int layer, const std::string& name, const Rows& a, PlainResult& result) const {
  const int64_t heads = config_.heads, d = config_.head_dim;
  const size_t columns = size_t(d);
  std::vector<Rows> state(size_t(heads), Rows(columns, Vector(columns)));
  Rows y;
  for (const Vector& row : a) {
    const Vector z = times(name + "qkv_proj.weight", row), gate = times(name + "output_gate.weight", row);
    Vector o(static_cast<size_t>(heads * d));
    for (int64_t h = 0; h < heads; ++h) {
      const double* q = &z[size_t(h * 3 * d)];
      const double decay = std::exp(-slope(heads, h, layer, config_.layers));
      for (int64_t i = 0; i < d; ++i)
        for (int64_t j = 0; j < d; ++j) {
          double& s = state[size_t(h)][size_t(i)][size_t(j)];
          s = decay * s + silu(q[d + i]) * silu(q[2 * d + j]);
          o[size_t(h * d + j)] += silu(q[i]) * s;
        }
    }
    o = norm(name + "norm.weight", o, config_.lightning_norm_eps);
    for (size_t i = 0; i < o.size(); ++i) o[i] *= sigmoid(gate[i]);
    y.push_back(times(name + "out_proj.weight", o));
  }
  result.states[layer] = state;
  return y;
}

Vector PlainModel::rotated(const Vector& x, int64_t heads, int64_t position) const {
  Vector y = x;
  const int64_t half = config_.rotary_dim / 2;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          double(position) * std::pow(config_.rope_theta, -2.0 * double(i) / double(config_.rotary_dim));
      const size_t low = size_t(h * config_.head_dim + i), high = low + size_t(half);
      y[low] = x[low] * std::cos(angle) - x[high] * std::sin(angle);
      y[high] = x[high] * std::cos(angle) + x[low] * std::sin(angle);
    }
  return y;
}

Rows PlainModel::softmax(const std::string& name, const Rows& a) const {
  const int64_t heads = config_.heads, kv_heads = config_.kv_heads, d = config_.head_dim;
  Rows keys, values, y;
  for (size_t t = 0; t < a.size(); ++t) {
    const Vector q = rotated(times(name + "q_proj.weight", a[t]), heads, int64_t(t));
    keys.push_back(rotated(times(name + "k_proj.weight", a[t]), kv_heads, int64_t(t)));
    values.push_back(times(name + "v_proj.weight", a[t]));
    Vector o(static_cast<size_t>(heads * d));
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t kv = h / (heads / kv_heads);
      Vector p(t + 1);
      for (size_t j = 0; j <= t; ++j) p[j] = dot(&q[size_t(h * d)], &keys[j][size_t(kv * d)], d) / std::sqrt(double(d));
      const double greatest = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& score : p) score = std::exp(score - greatest), sum += score;
      for (size_t j = 0; j <= t; ++j)
        for (int64_t i = 0; i < d; ++i) o[size_t(h * d + i)] += p[j] / sum * values[j][size_t(kv * d + i)];
    }
    y.push_back(times(name + "o_proj.weight", o));
  }
  return y;
}

Vector PlainModel::experts(int layer, const std::string& name, const Vector& b, PlainResult& result) const {
  const Vector logits = times(name + "gate.weight", b);
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return logits[size_t(i)] > logits[size_t(j)]; });
  order.resize(size_t(config_.experts_per_token));
  Vector weights;
  double sum = 0;
  for (const int e : order)
    weights.push_back(std::exp(logits[size_t(e)] - logits[size_t(order[0])])), sum += weights.back();
  Vector y(b.size());
  for (size_t s = 0; s < order.size(); ++s) {
    weights[s] /= sum;
    const std::string expert = name + "experts." + std::to_string(order[s]) + ".";
    Vector middle = times(expert + "w1.weight", b);
    const Vector up = times(expert + "w3.weight", b);
    for (size_t i = 0; i < middle.size(); ++i) middle[i] = silu(middle[i]) * up[i];
    const Vector down = times(expert + "w2.weight", middle);
    for (size_t i = 0; i < y.size(); ++i) y[i] += weights[s] * down[i];
  }
  result.experts[size_t(layer)].push_back(order);
  result.weights[size_t(layer)].push_back(weights);
  return y;
}

PlainResult PlainModel::forward(const std::vector<int32_t>& ids) const {
  PlainResult result;
  result.experts.resize(config_.attention.size()), result.weights.resize(config_.attention.size());
  const Vector& table = weights_.at("model.embed_tokens.weight");
  const int64_t width = config_.width;
  Rows x;
  for (const int32_t id : ids) x.emplace_back(table.begin() + id * width, table.begin() + (id + 1) * width);

  const auto half = [&](const std::string& norm_name, Residual r, auto&& branch) {
    Rows a;
    for (const Vector& row : x) a.push_back(norm(norm_name, row, config_.norm_eps));
    const Rows y = branch(a);
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < x[t].size(); ++i)
        x[t][i] = r.alpha * (config_.post_norm ? a[t][i] : x[t][i]) + r.beta * y[t][i];
  };
  for (int l = 0; l < int(config_.layers); ++l) {
    const std::string name = "model.layers." + std::to_string(l) + ".";
    const bool is_lightning = config_.attention[size_t(l)] == AttentionKind::lightning;
    half(name + "input_layernorm.weight", is_lightning ? config_.lightning_residual : config_.softmax_residual,
         [&](const Rows& a) {
           return is_lightning ? lightning(l, name + "self_attn.", a, result) : softmax(name + "self_attn.", a);
         });
    half(name + "post_attention_layernorm.weight", config_.moe_residual, [&](const Rows& b) {
      Rows y;
      for (const Vector& row : b) y.push_back(experts(l, name + "block_sparse_moe.", row, result));
      return y;
    });
  }
  for (const Vector& row : x) {
    result.hidden.push_back(norm("model.norm.weight", row, config_.norm_eps));
    result.logits.push_back(
        times(config_.tied_head ? "model.embed_tokens.weight" : "lm_head.weight", result.hidden.back()));
  }
  return result;
}

double PlainModel::loss(const std::vector<int32_t>& ids) const {
  const Rows logits = forward(ids).logits;
  double sum = 0;
  for (size_t t = 0; t + 1 < ids.size(); ++t) {
    const double greatest = *std::max_element(logits[t].begin(), logits[t].end());
    double z = 0;
    for (const double logit : logits[t]) z += std::exp(logit - greatest);
    sum += std::log(z) + greatest - logits[t][size_t(ids[t + 1])];
  }
  return sum / double(ids.size() - 1);
}

}  // namespace fulgur::tests
