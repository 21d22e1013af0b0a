// What a recorder sees of a step: every operator in order, its bytes and FLOPs as counted by hand, in real and in
// measuring runs alike; and that recording changes no bit.
#include "device/recorder.h"

#include <gtest/gtest.h>

#include <map>

#include "base/random.h"
#include "generate/engine.h"
#include "ops/embedding.h"
#include "ops/lightning_attention.h"
#include "ops/linear.h"
#include "ops/take_rows.h"
#include "tests/one_step.h"
#include "tests/tiny_model.h"
#include "train/training_memory.h"

namespace fulgur::tests {
namespace {

constexpr int64_t kRows = 150;

std::vector<int32_t> tokens_of(int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int32_t(philox(3, uint64_t(i), 0)[0] % 97));
  return tokens;
}

// FLOPs of one prefill of one sequence whose head sees `outputs` rows.
double forward_flops(const ModelConfig& c, double rows, double outputs) {
  const double lightning = double(c.lightning_layers()), softmax = double(c.softmax_layers());
  const double inner = double(c.heads * c.head_dim), keys = double(2 * c.kv_heads * c.head_dim);
  const double width = double(c.width), d = double(c.head_dim), heads = double(c.heads);
  double flops = lightning * rows * (2 * width * 5 * inner + heads * (2 * 64 * d + 4 * d * d));
  flops += softmax * (rows * 2 * width * (2 * inner + keys) + 4 * d * heads * rows * (rows + 1) / 2);
  flops += double(c.layers) * rows * 2 * width * double(c.experts + c.experts_per_token * 3 * c.expert_width);
  return flops + outputs * 2 * width * double(c.vocab_size);
}

double flops_of(const Recorder& recorder) {
  double flops = 0;
  for (const OperatorCall& call : recorder.calls) flops += call.work.flops();
  return flops;
}

struct Prefill {
  Recorder recorder;
  std::vector<int32_t> tokens;

  Prefill(const TinyModel& m, bool records, int64_t steps) {
    Engine engine(m.config, m.weights, {.sequences = 1, .tokens = kRows + 8, .threads = 2});
    Sequence sequence = engine.begin(tokens_of(kRows));
    sequence.new_tokens = steps;
    Sequence* const running[] = {&sequence};
    for (int64_t i = 0; i < steps; ++i) {
      if (records) recorder.start(engine.stream());
      engine.step(running);
      if (records) recorder.stop(engine.stream());
    }
    tokens = sequence.tokens;
  }
};

TEST(Recorder, a_prefill_has_the_flops_of_the_formula) {
  const TinyModel m(tiny_config(), DType::f32, 1);
  const Prefill p(m, true, 1);
  EXPECT_NEAR(flops_of(p.recorder) / forward_flops(m.config, kRows, 1), 1, 1e-9);
}

TEST(Recorder, calls_follow_each_other_and_name_their_tensors) {
  const TinyModel m(tiny_config(), DType::f32, 1);
  const Prefill p(m, true, 1);
  double last = p.recorder.started();
  std::map<std::string, int> calls;
  for (const OperatorCall& call : p.recorder.calls) {
    EXPECT_LE(last, call.start);
    EXPECT_LE(call.start, call.end);
    last = call.end, ++calls[call.name];
    EXPECT_FALSE(call.tensors.empty()) << call.name;
    EXPECT_GT(call.work.bytes, 0) << call.name;
  }
  EXPECT_EQ(calls["embedding"], 1);
  EXPECT_EQ(calls["linear"], 3 + 2 + 1);  // qkv and gate; qkv, out; head
  EXPECT_EQ(calls["gated_norm_linear"], 3);
  EXPECT_EQ(calls["route_rows"], 4);
  EXPECT_EQ(calls["expert_swiglu"], 4);
  EXPECT_EQ(calls["expert_linear"], 4);
  EXPECT_EQ(calls["lightning_attention"], 3);
  EXPECT_EQ(calls["softmax_attention"], 1);
  EXPECT_GT(calls["copy"], 0);
  EXPECT_GE(p.recorder.seconds(), 0);
}

TEST(Recorder, recording_changes_no_bit) {
  const TinyModel m(tiny_config(), DType::f32, 1);
  EXPECT_EQ(Prefill(m, true, 6).tokens, Prefill(m, false, 6).tokens);
}

TEST(Recorder, one_row_needs_its_experts_and_the_positions_it_knows) {
  const TinyModel m(tiny_config(), DType::f32, 1);
  const ModelConfig& c = m.config;
  const Prefill p(m, true, 2);
  for (const OperatorCall& call : p.recorder.calls) {
    const std::string name = call.name;
    if (name == "expert_linear") {
      const int64_t weights = c.experts_per_token * c.expert_width * c.width * 4;
      EXPECT_EQ(call.work.bytes, weights + c.experts_per_token * (c.expert_width + c.width) * 4);
      EXPECT_EQ(call.work.products.front().count, c.experts_per_token);
    }
    if (name == "softmax_attention") {
      EXPECT_EQ(call.work.bytes, (2 * c.heads + 2 * c.kv_heads * (kRows + 1)) * c.head_dim * 4);
    }
    if (name == "lightning_attention") {  // o, qkv and squares; the state; half of the tail {
      EXPECT_EQ(call.work.bytes, c.heads * 4 * (4 * c.head_dim + 1 + c.head_dim * c.head_dim + 64 * c.head_dim));
    }
    if (name == "embedding") {
      EXPECT_EQ(call.work.bytes, 2 * c.width * 4 + 4);
    }
  }
}

// Forward, loss and backward of one document, recorded.
Recorder training_calls(Stream& stream, Arena& scratch, Arena& tape, const ModelConfig& c, const ModelWeights& w,
                        ModelWeights& grads, Tensor loss) {
  Exec exec{stream, scratch, tape, c};
  PackedRow row;
  append_document(row, tokens_of(kRows + 1));
  const std::vector<PackedRow> rows{row};
  const MicroBatch micro =
      stream.measuring() ? largest_micro_batch(exec, kRows + 1, kRows + 1) : micro_batch_of(exec, rows);
  const Tensor scale = upload(stream, scratch, std::vector<double>{0.01});
  Recorder recorder;
  recorder.start(stream);
  micro_step(exec, w, grads, micro, scale, {.window = kRows + 1}, loss);
  recorder.stop(stream);
  return recorder;
}

TEST(Recorder, a_measuring_run_sees_the_same_work) {
  const TinyModel m(tiny_config(), DType::f32, 1);
  const ModelConfig& c = m.config;
  const Buffer memory(size_t(64) << 20, Purpose::activations), sums(size_t(flat_elements(c)) * 4, Purpose::optimizer),
      loss(8, Purpose::workspace);
  Arena scratch(memory.data(), memory.bytes() / 2, {}),
      tape(memory.data() + memory.bytes() / 2, memory.bytes() / 2, {});
  ModelWeights grads = views_of(c, sums.tensor(DType::f32, {flat_elements(c)}));
  Stream stream({}, 2), counts = Stream::measuring({});
  const Recorder real = training_calls(stream, scratch, tape, c, m.weights, grads, loss.tensor(DType::f64, {1}));

  Arena no_scratch = Arena::measuring({}), no_tape = Arena::measuring({});
  ModelWeights shapes = views_of(c, contiguous(nullptr, DType::f32, {}, {flat_elements(c)}));
  fill_decays(c, shapes, contiguous(nullptr, DType::f32, {}, {c.layers, c.heads}));
  ModelWeights grad_shapes = shapes;
  const Recorder counted =
      training_calls(counts, no_scratch, no_tape, c, shapes, grad_shapes, contiguous(nullptr, DType::f64, {}, {1}));
  ASSERT_EQ(real.calls.size(), counted.calls.size());
  for (size_t i = 0; i < real.calls.size(); ++i) {
    const OperatorCall &a = real.calls[i], &b = counted.calls[i];
    EXPECT_STREQ(a.name, b.name);
    EXPECT_DOUBLE_EQ(a.work.flops(), b.work.flops()) << a.name;
    EXPECT_NEAR(double(b.work.bytes) / double(a.work.bytes), 1, 0.05)
        << a.name;  // each token a sequence, to be the largest
    EXPECT_EQ(b.start, b.end) << "a measuring run takes no time";
  }
  // Backward has twice forward's products, and 5 C D + 10 D^2 of lightning, five of softmax where forward has two.
  const double d = double(c.head_dim), head_rows = double((kRows + 1) * c.heads), keys = double(kRows + 2) / 2;
  const double forward = forward_flops(c, kRows + 1, kRows + 1);
  const double attention = head_rows * (3 * (2 * 64 * d + 4 * d * d) + 4 * d * keys);
  const double attention_backward = head_rows * (3 * (5 * 64 * d + 10 * d * d) + 10 * d * keys);
  EXPECT_NEAR(flops_of(real) / (3 * (forward - attention) + attention + attention_backward), 1, 1e-9);
}

TEST(Recorder, a_call_can_be_run_again_on_other_tensors) {
  const Buffer memory(4096, Purpose::workspace);
  Arena arena(memory.data(), memory.bytes(), {});
  const Tensor y = arena.alloc(DType::f32, {2, 3}), x = arena.alloc(DType::f32, {2, 2}),
               w = arena.alloc(DType::f32, {3, 2}), again = arena.alloc(DType::f32, {2, 3});
  for (int i = 0; i < 4; ++i) x.elements<float>()[i] = float(i + 1);
  for (int i = 0; i < 6; ++i) w.elements<float>()[i] = float(i - 2);
  Stream stream, other({}, 2);
  Recorder recorder;
  int seen = 0;
  recorder.before = [&](const OperatorCall& call, const Replay& replay) {
    ++seen;
    ASSERT_EQ(call.tensors.size(), 3u);
    EXPECT_TRUE(call.tensors[0].written && !call.tensors[0].read && call.tensors[1].read && !call.tensors[1].written);
    const Tensor tensors[] = {again, x, w};
    replay(other, tensors);
  };
  recorder.start(stream);
  linear(stream, {.y = y, .x = x, .w = {.values = w}});
  recorder.stop(stream);
  linear(stream, {.y = y, .x = x, .w = {.values = w}});
  EXPECT_EQ(seen, 1) << "neither the replay nor what runs after stop is recorded";
  EXPECT_EQ(recorder.calls.size(), 1u);
  EXPECT_EQ(std::memcmp(y.data, again.data, size_t(y.bytes())), 0);
  EXPECT_EQ(y.elements<float>()[0], -4.0f);
}

TEST(Recorder, one_inside_another_hides_nothing_from_it) {
  const Buffer memory(4096, Purpose::workspace);
  Arena arena(memory.data(), memory.bytes(), {});
  const Tensor y = arena.alloc(DType::f32, {2, 3}), x = arena.alloc(DType::f32, {2, 2}),
               w = arena.alloc(DType::f32, {3, 2});
  Stream stream;
  Recorder outer, inner;
  int after = 0;
  outer.after = [&](const OperatorCall& call, const Replay&) {
    ++after;
    EXPECT_STREQ(call.name, "linear");
    EXPECT_LE(call.start, call.end);
  };
  const auto multiply = [&] { linear(stream, {.y = y, .x = x, .w = {.values = w}}); };
  outer.start(stream), multiply();
  inner.start(stream), multiply(), inner.stop(stream);
  multiply(), outer.stop(stream), multiply();
  EXPECT_EQ(after, 3);
  EXPECT_EQ(outer.calls.size(), 3u);
  EXPECT_EQ(inner.calls.size(), 1u);
}

TEST(Recorder, keeps_the_third_step_or_the_last) {
  const Buffer memory(4096, Purpose::workspace);
  Stream stream;
  const auto clears_seen = [&](int steps) {
    Recorder recorder;
    for (int step = 1; step <= steps; ++step) {
      const RecordedStep recorded(stream, &recorder);
      for (int i = 0; i < step; ++i) clear(stream, memory.tensor(DType::f32, {16}));
    }
    return recorder.calls.size();
  };
  EXPECT_EQ(clears_seen(1), 1u);
  EXPECT_EQ(clears_seen(2), 2u);
  EXPECT_EQ(clears_seen(3), 3u);
  EXPECT_EQ(clears_seen(5), 3u);
  const RecordedStep nobody(stream, nullptr);
  EXPECT_EQ(stream.recorder(), nullptr);
}

}  // namespace
}  // namespace fulgur::tests
