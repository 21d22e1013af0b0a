// With FULGUR_POISON=1: what is given back is NaN, on the device too, and nothing that a step reads is.
#include "device/poison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "device/arena.h"
#include "device/transfer.h"
#include "generate/engine.h"
#include "tests/test_device.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

[[maybe_unused]] const int asked = setenv("FULGUR_POISON", "1", 1);  // before anything asks for it

float first_of(Stream& stream, const Tensor& layer) {
  return download<float>(stream, contiguous(layer.data, DType::f32, layer.device, {1}))[0];
}

TEST(Poison, what_a_scope_leaves) {
  const DeviceId device = test_device();
  Stream stream(device);
  const Buffer memory(4096, Purpose::workspace, device);
  Arena arena(memory.data(), 4096, device);
  {
    const Arena::Scope scope(arena);
    clear(stream, arena.alloc(DType::f32, {100}));
  }
  for (const float x : download<float>(stream, arena.alloc(DType::f32, {100}))) EXPECT_TRUE(std::isnan(x));
  for (const float x : download<float>(stream, arena.alloc(DType::f32, {100}))) EXPECT_EQ(x, 0) << "never given out";
}

TEST(Poison, a_sequence_after_another_reads_nothing_of_it) {
  ASSERT_TRUE(poisons());
  const TinyModel m(tiny_config(), DType::f32, 7);
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 70; ++i) prompt.push_back(i * 7 % 61);
  Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 128});
  std::vector<int32_t> first;
  for (int time = 0; time < 2; ++time) {
    Sequence sequence = engine.begin(prompt);
    sequence.new_tokens = 3;
    Sequence* const running[] = {&sequence};
    while (sequence.new_tokens > 0) engine.step(running);
    ASSERT_EQ(sequence.tokens.size(), prompt.size() + 3);
    if (time == 0) first = sequence.tokens;
    EXPECT_EQ(sequence.tokens, first);
  }
}

TEST(Poison, slots_and_pages_given_back) {
  const StateShape shape{.lightning = {true, false}, .heads = 2, .kv_heads = 1, .head_dim = 4, .type = DType::f32};
  Stream stream(test_device());
  StatePool pool(shape, 1, 2, test_device());
  {
    SequenceState state(pool, stream);
    state.reserve(stream, 65);
    EXPECT_EQ(first_of(stream, pool.state()[0]), 0);
  }
  EXPECT_TRUE(std::isnan(first_of(stream, pool.state()[0])));
  EXPECT_TRUE(std::isnan(first_of(stream, pool.tail()[0])));
  EXPECT_TRUE(std::isnan(first_of(stream, pool.kv_pages()[1])));
}

}  // namespace
}  // namespace fulgur::tests
