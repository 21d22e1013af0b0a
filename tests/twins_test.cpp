// label: slow
// --check-twins on the tests' device: every operator of a model's steps is compared, and the twins agree.
#include <gtest/gtest.h>

#include "bench/check_twins.h"
#include "generate/engine.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

TEST(CheckTwins, compares_every_operator_of_a_gpu) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const TinyModel m(tiny_config(), type, 4);
    Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 140, .limits = {.rows = 70, .chunk = 70}});
    if (!test_device().is_cuda()) {
      EXPECT_THROW(bench::CheckTwins(engine.stream(), m.weights, 1), Error) << "a CPU has nothing to be compared with";
      return;
    }
    bench::CheckTwins twins(engine.stream(), m.weights, 2);
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 130; ++i) tokens.push_back(i * 31 % 97);
    Sequence sequence = engine.begin(tokens);
    sequence.new_tokens = 5;
    Sequence* const running[] = {&sequence};
    while (sequence.new_tokens > 0) engine.step(running);
    EXPECT_NO_THROW(twins.judge());
    for (const char* name : {"lightning_attention", "softmax_attention", "expert_linear", "sample", "store_kv"})
      EXPECT_NE(twins.table().find(name), std::string::npos) << twins.table();
  }
}

}  // namespace
}  // namespace fulgur::tests
