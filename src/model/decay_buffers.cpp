#include "model/decay_buffers.h"

#include <cmath>
#include <cstring>

namespace fulgur {
namespace {

constexpr const char *kSlope = ".self_attn.slope_rate", *kQuery = ".self_attn.query_decay",
                     *kKey = ".self_attn.key_decay", *kDiagonal = ".self_attn.diagonal_decay";

// value(head, row, column) for every element.
template <class Value>
TensorToWrite buffer(const std::string& layer, const char* name, std::vector<int64_t> shape, const ModelConfig& c,
                     int64_t rows, int64_t columns, const Value& value) {
  return {layer + name, DType::f32, std::move(shape), [heads = c.heads, rows, columns, value](std::byte* out) {
            for (int64_t h = 0; h < heads; ++h)
              for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < columns; ++j, out += sizeof(float)) {
                  const auto element = float(value(h, i, j));
                  std::memcpy(out, &element, sizeof element);
                }
          }};
}

}  // namespace

std::vector<TensorToWrite> decay_buffers(const ModelConfig& c) {
  constexpr int64_t kBlock = kDecayBlock;
  std::vector<TensorToWrite> all;
  for (int64_t l = 0; l < c.layers; ++l) {
    if (c.attention[size_t(l)] != AttentionKind::lightning) continue;
    const std::string layer = "model.layers." + std::to_string(l);
    std::vector<double> slopes;
    for (int64_t h = 0; h < c.heads; ++h) slopes.push_back(decay_of(c, l, h));
    const auto after = [slopes](int64_t h, int64_t tokens) { return std::exp(-slopes[size_t(h)] * double(tokens)); };
    all.push_back(buffer(layer, kSlope, {c.heads, 1, 1}, c, 1, 1,
                         [slopes](int64_t h, int64_t, int64_t) { return slopes[size_t(h)]; }));
    all.push_back(buffer(layer, kQuery, {c.heads, kBlock, 1}, c, kBlock, 1,
                         [after](int64_t h, int64_t i, int64_t) { return after(h, i + 1); }));
    all.push_back(buffer(layer, kKey, {c.heads, kBlock, 1}, c, kBlock, 1,
                         [after](int64_t h, int64_t i, int64_t) { return after(h, kBlock - 1 - i); }));
    all.push_back(buffer(layer, kDiagonal, {1, c.heads, kBlock, kBlock}, c, kBlock, kBlock,
                         [after](int64_t h, int64_t i, int64_t j) { return j > i ? 0 : after(h, i - j); }));
  }
  return all;
}

bool is_decay_buffer(std::string_view tensor) {
  if (!tensor.starts_with("model.layers.")) return false;
  for (const char* end : {kSlope, kQuery, kKey, kDiagonal})
    if (tensor.ends_with(end)) return true;
  return false;
}

}  // namespace fulgur
