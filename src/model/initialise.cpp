#include "model/initialise.h"

#include <cmath>
#include <numbers>

#include "base/random.h"
#include "device/buffer.h"
#include "device/stream.h"

namespace fulgur {
namespace {

// Xavier's gain: DeepNet's beta = (8 layers)^(-1/4) for what feeds the residual (values, output projections, w1 and w2
// of an expert), 1 for the rest and for pre-norm models.
double gain(const ModelConfig& c, const std::string& name, int64_t row) {
  if (!c.post_norm) return 1;
  const double beta = std::pow(8.0 * double(c.layers), -0.25);
  if (name.ends_with(".qkv_proj.weight")) return row % (3 * c.head_dim) < 2 * c.head_dim ? 1 : beta;
  for (const char* end : {".v_proj.weight", ".out_proj.weight", ".o_proj.weight", ".w1.weight", ".w2.weight"})
    if (name.ends_with(end)) return beta;
  return 1;
}

template <class T>
void fill(const ModelConfig& c, const Parameter& p, uint64_t seed, Threads& threads) {
  constexpr int64_t kGrain = 4096;
  const uint64_t hash = fnv1a64(p.checkpoint_name);
  const int64_t columns = p.view.dim(-1);
  T* values = p.view.elements<T>();
  threads.for_ranges(p.view.count(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t row = i / columns, row_end = std::min(end, (row + 1) * columns);
      const double deviation = initial_deviation(c, p, row);
      for (; i < row_end; ++i)
        values[i] = T(p.kind == ParameterKind::norm ? Wide<T>(1)
                                                    : Wide<T>(initial_normal(seed, hash, uint64_t(i)) * deviation));
    }
  });
}

// Of a parameter in main memory.
void fill(const ModelConfig& c, const Parameter& p, uint64_t seed, Threads& threads) {
  switch (p.view.dtype) {
    case DType::f64: return fill<double>(c, p, seed, threads);
    case DType::f32: return fill<float>(c, p, seed, threads);
    case DType::bf16: return fill<bf16>(c, p, seed, threads);
    default: expect(false, "weights are f64, f32 or bf16");
  }
}

}  // namespace

double initial_normal(uint64_t seed, uint64_t name_hash, uint64_t element) {
  const PhiloxBlock words = philox(seed, element, name_hash);
  return std::sqrt(-2 * std::log(unit_interval(words[0]))) * std::cos(2 * std::numbers::pi * unit_interval(words[1]));
}

double initial_deviation(const ModelConfig& c, const Parameter& p, int64_t row) {
  if (p.kind == ParameterKind::norm) return 0;
  // The fans are those of a single matrix: q, k and v lie in one tensor but are three.
  const bool interleaved = p.checkpoint_name.ends_with(".qkv_proj.weight");
  const int64_t fan_out = interleaved ? c.heads * c.head_dim : p.view.dim(0), fan_in = p.view.dim(1);
  return gain(c, p.checkpoint_name, row) * std::sqrt(2.0 / double(fan_in + fan_out));
}

void initialise(const ModelConfig& config, ModelWeights& weights, uint64_t seed, Threads& threads) {
  if (!weights.flat.device.is_cuda()) {
    for (const Parameter& p : weights.parameters) fill(config, p, seed, threads);
    return;
  }
  Stream stream(weights.flat.device);
  for (const Parameter& p : weights.parameters) {
    const Buffer memory(size_t(p.view.bytes()), Purpose::workspace);
    Parameter drawn = p;
    drawn.view.data = memory.data(), drawn.view.device = {};
    fill(config, drawn, seed, threads);
    copy(stream, p.view, drawn.view);
    stream.synchronize();
  }
}

}  // namespace fulgur
