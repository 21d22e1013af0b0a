#include "tests/golden.h"

namespace fulgur::tests {

EngineRows::EngineRows(const ModelConfig& c, int64_t tokens, DType run_type)
    : memory(size_t(tokens * (c.width + c.vocab_size + 2 * c.layers * c.experts_per_token) * 4), Purpose::workspace) {
  std::byte* next = memory.data();
  const auto carve = [&](DType type, int64_t columns) {
    const Tensor t = contiguous(next, type, {}, {tokens, columns});
    next += t.bytes();
    return t;
  };
  trace.hidden = carve(run_type, c.width), trace.logits = carve(DType::f32, c.vocab_size);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    trace.experts.push_back(carve(DType::i32, c.experts_per_token));
    trace.weights.push_back(carve(DType::f32, c.experts_per_token));
  }
}

}  // namespace fulgur::tests
