// Floors, tables, traces and replays of bench. Nothing here asks how long anything took.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bench/operators.h"
#include "bench/random_model.h"
#include "bench/replayed.h"
#include "bench/step_table.h"
#include "bench/tokenizer_rate.h"
#include "bench/trace.h"
#include "tests/scratch.h"

namespace fulgur::bench {
namespace {

constexpr double kSeconds = 0.0005;  // of a rate: nobody looks at it
constexpr int64_t kRing = 1 << 20;   // bytes; nor at what the caches do to it

MatrixProduct product(int64_t m, ProductLayout layout, DType type, bool adds = false) {
  return {m, 40, 24, layout, type, type, adds ? DType::f32 : type, adds, 1, false, double(2 * m * 40 * 24)};
}

TEST(ProductRates, every_layout_and_type_is_right_and_has_a_rate) {
  Threads threads(2);
  ProductRates rates(threads, kSeconds, kRing);
  for (const DType type : {DType::f32, DType::bf16})
    for (const ProductLayout layout : {ProductLayout::nt, ProductLayout::nn, ProductLayout::tn})
      for (const bool adds : {false, true})
        for (const int64_t count : {1, 3})
          for (const bool in_cache : {false, true}) {
            MatrixProduct p = product(17, layout, type, adds);
            p.count = count, p.in_cache = in_cache;
            EXPECT_GT(rates.of(p).ours, 0) << described(p);  // a wrong result would have ended the process
          }
  MatrixProduct doubles = product(17, ProductLayout::nt, DType::f64);
  EXPECT_EQ(rates.of(doubles).best(), 0);
}

TEST(ProductRates, a_shape_is_described) {
  MatrixProduct p = product(17, ProductLayout::tn, DType::bf16, true);
  EXPECT_EQ(described(p), "17 x 40 x 24 tn bf16->f32 added");
  p = product(17, ProductLayout::nt, DType::f32), p.count = 4;
  EXPECT_EQ(described(p), "4 of 17 x 40 x 24 nt f32");
  p.in_cache = true;
  EXPECT_EQ(described(p), "17 x 40 x 24 nt f32 in cache");
  p = product(1, ProductLayout::nn, DType::f32), p.b = DType::bf16;
  EXPECT_EQ(described(p), "1 x 40 x 24 nn f32*bf16");
}

struct Fixed {
  Threads threads{1};
  ProductRates rates{threads, kSeconds, kRing};
  Floors floors;
  Fixed(double copy, double read) : floors({.copy = copy, .read = read}, rates) {}
};

TEST(Floors, bytes_at_the_copy_rate_where_there_is_no_product) {
  Fixed f(1000, 10);
  const std::vector<FloorTerm> terms = f.floors.of({.bytes = 500});
  ASSERT_EQ(terms.size(), 1u);
  EXPECT_DOUBLE_EQ(seconds_of(terms), 0.5);
}

TEST(Floors, a_product_at_the_rate_of_its_shape_or_of_reading) {
  const MatrixProduct p = product(17, ProductLayout::nt, DType::f32);
  Fixed fast(1, 1e30);
  std::vector<FloorTerm> terms = fast.floors.of({.bytes = 500, .products = {p, p}});
  ASSERT_EQ(terms.size(), 1u) << "equal shapes are one term";
  EXPECT_STREQ(terms.front().unit, "FLOP");
  EXPECT_DOUBLE_EQ(seconds_of(terms), 2 * p.flops / fast.rates.of(p).best());
  Fixed slow(1, 2);
  terms = slow.floors.of({.bytes = 500, .products = {p}});
  ASSERT_EQ(terms.size(), 1u);
  EXPECT_DOUBLE_EQ(seconds_of(terms), 250);
}

TEST(Floors, tiles_in_cache_or_the_bytes_around_them) {
  MatrixProduct p = product(17, ProductLayout::nt, DType::f32);
  p.in_cache = true;
  Fixed fast(1e30, 1), slow(1, 1);
  EXPECT_DOUBLE_EQ(seconds_of(fast.floors.of({.bytes = 500, .products = {p}})), p.flops / fast.rates.of(p).best());
  EXPECT_DOUBLE_EQ(seconds_of(slow.floors.of({.bytes = 500, .products = {p}})), 500);
}

TEST(Floors, the_bytes_of_an_attention_of_few_rows_are_read) {
  MatrixProduct p = product(1, ProductLayout::nt, DType::f32);
  p.in_cache = true;
  Fixed f(1e30, 2);
  EXPECT_DOUBLE_EQ(seconds_of(f.floors.of({.bytes = 500, .products = {p}})), 250);
}

Tensor floats(const Buffer& memory, int64_t count) { return memory.tensor(DType::f32, {count}); }

// Two clears and a copy, recorded.
Recorder small_step(const Buffer& memory) {
  Stream stream;
  Recorder recorder;
  recorder.start(stream);
  clear(stream, floats(memory, 100)), clear(stream, floats(memory, 50));
  copy(stream, floats(memory, 25), floats(memory, 25));
  recorder.stop(stream);
  return recorder;
}

TEST(StepTable, adds_up) {
  const Buffer memory(4096, Purpose::workspace);
  const Recorder recorder = small_step(memory);
  Fixed f(1000, 1);
  const StepTable table = table_of(recorder, f.floors);
  ASSERT_EQ(table.operators.size(), 2u);
  double inside = 0, floor = 0;
  for (const OperatorRow& row : table.operators) {
    inside += row.seconds, floor += row.floor;
    EXPECT_EQ(row.calls, row.name == "clear" ? 2 : 1);
    EXPECT_EQ(row.bytes, row.name == "clear" ? 600 : 200);
  }
  EXPECT_NEAR(table.seconds, inside + table.between, 1e-12);
  EXPECT_DOUBLE_EQ(floor, 0.8);
  EXPECT_DOUBLE_EQ(table.floor(), 0.8);
  const std::string text = text_of(table, f.floors);
  for (const char* word : {"clear", "copy", "between operators", "floor, term by term", "bytes of other operators"})
    EXPECT_NE(text.find(word), text.npos) << word;
  EXPECT_EQ(json_of(table)["operators"].size(), 2u);
}

TEST(Trace, is_what_chrome_loads) {
  const Buffer memory(4096, Purpose::workspace);
  const nlohmann::json trace = nlohmann::json::parse(chrome_trace(small_step(memory)));
  ASSERT_EQ(trace["traceEvents"].size(), 3u);
  double last = 0;
  for (const auto& event : trace["traceEvents"]) {
    EXPECT_EQ(event["ph"], "X");
    EXPECT_GE(event["ts"].get<double>(), last);
    EXPECT_GE(event["dur"].get<double>(), 0);
    last = event["ts"].get<double>() + event["dur"].get<double>() - 1e-3;  // microseconds, printed as decimals
  }
  EXPECT_EQ(trace["traceEvents"][0]["args"]["bytes"], 400);
  EXPECT_EQ(trace["traceEvents"][0]["args"]["shape"], "f32[100]");
}

OperatorCall call_of(const Tensor& in, const Tensor& changed, const Tensor& out) {
  return {.name = "test", .work = {}, .tensors = {{in, true, false}, {changed, true, true}, {out, false, true}}};
}

TEST(Replayed, inputs_are_as_they_were_and_outputs_poisoned) {
  const Buffer memory(4096, Purpose::workspace);
  Tensor in = floats(memory, 4), changed = in, out = in;
  changed.data += 64, out.data += 128;
  in.elements<float>()[0] = 3, changed.elements<float>()[0] = 5;
  int runs = 0;
  Replayed replayed(
      call_of(in, changed, out),
      [&](Stream&, std::span<const Tensor> t) {
        ++runs;
        EXPECT_EQ(t[0].elements<float>()[0], 3);
        EXPECT_EQ(t[1].elements<float>()[0], 5) << "restored before every run";
        EXPECT_TRUE(std::isnan(t[2].elements<float>()[0])) << "poisoned before every run";
        t[1].elements<float>()[0] += 1, t[2].elements<float>()[0] = 7;
      },
      100);
  in.elements<float>()[0] = changed.elements<float>()[0] = 0;  // the copies count
  Stream stream;
  EXPECT_GE(replayed.seconds(stream, 0), 0);
  EXPECT_GE(runs, 4);
  EXPECT_EQ(out.elements<float>()[0], 0);
}

TEST(Replayed, notices_other_bits) {
  const Buffer memory(4096, Purpose::workspace);
  const Tensor t = floats(memory, 4);
  int runs = 0;
  Replayed replayed(
      call_of(t, t, t), [&](Stream&, std::span<const Tensor> on) { on[2].elements<float>()[3] = float(++runs); }, 0);
  Stream stream;
  replayed.prepare(0), replayed.run(stream, 0);
  EXPECT_TRUE(replayed.repeats(0)) << "the first run is what others are compared with";
  replayed.prepare(1), replayed.run(stream, 1);
  EXPECT_FALSE(replayed.repeats(1));
}

TEST(Operators, every_one_of_a_step_is_visited_once) {
  RunConfig run;
  run.model_json = nlohmann::json{
      {"model_type", "minimax_text_01"},
      {"vocab_size", 61},
      {"hidden_size", 32},
      {"num_hidden_layers", 3},
      {"attn_type_list", {0, 1, 0}},
      {"num_attention_heads", 2},
      {"num_key_value_heads", 1},
      {"head_dim", 16},
      {"rotary_dim", 8},
      {"rope_theta", 1e4},
      {"intermediate_size", 24},
      {"num_local_experts", 4},
      {"num_experts_per_tok", 2},
      {"rms_norm_eps", 1e-5},
      {"postnorm", true},
      {"max_position_embeddings", 4096},
      {"layernorm_linear_attention_alpha", 1.5},
      {"layernorm_linear_attention_beta", 1},
      {"layernorm_full_attention_alpha", 1.5},
      {"layernorm_full_attention_beta", 1},
      {"layernorm_mlp_alpha", 1.5},
      {"layernorm_mlp_beta", 1},
      {"tie_word_embeddings",
       false}}.dump();
  run.steps = 1, run.lr = 1e-3, run.threads = 2;
  for (const DType type : {DType::f32, DType::bf16}) {
    std::set<std::string> names, lines;
    Stream stream({}, 2);
    visit_operators({run, type, 2, 70, ""}, [&](const VisitedCall& v) {
      names.insert(v.call.name);
      EXPECT_TRUE(lines.insert(v.phase + v.call.name + v.shape).second) << v.call.name << " " << v.shape;
      Replayed replayed(v.call, v.replay, 0);
      for (int i = 0; i < 2; ++i) {
        replayed.prepare(i), replayed.run(stream, i);
        EXPECT_TRUE(replayed.repeats(i)) << v.call.name;
      }
    });
    for (const char* name : {"sample", "store_kv", "lightning_attention_backward", "softmax_attention_backward",
                             "adamw", "expert_linear_backward", "embedding_backward"})
      EXPECT_TRUE(names.contains(name)) << name;
    EXPECT_GE(names.size(), 30u);
    int shown = 0;
    visit_operators({run, type, 2, 70, "swiglu_backward"}, [&](const VisitedCall&) { ++shown; });
    EXPECT_EQ(shown, 1);
  }
}

TEST(TokenizerRate, documents_end_at_lines_and_are_the_text) {
  using Documents = std::vector<std::string_view>;
  EXPECT_EQ(cut_at_lines("", 4), Documents{});
  EXPECT_EQ(cut_at_lines("ab\ncd\nefgh\n", 4), (Documents{"ab\ncd\n", "efgh\n"}));
  EXPECT_EQ(cut_at_lines("abcdefg", 4), (Documents{"abcdefg"}));
  EXPECT_EQ(cut_at_lines("abc\ndef\ng", 4), (Documents{"abc\n", "def\n", "g"}));
}

TEST(TokenizerRate, counts_all_documents_once) {
  const Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(FULGUR_SOURCE) / "data/tiny/tokenizer");
  const std::string_view text = "Once upon a time\nthere was a dog.\n";
  const TokenizerRate rate = tokenizer_rate(tokenizer, cut_at_lines(text, 5), 2);
  EXPECT_EQ(rate.bytes, int64_t(text.size()));
  EXPECT_EQ(rate.tokens, int64_t(tokenizer.encode("Once upon a time\n", SpecialTokens::as_text).size() +
                                 tokenizer.encode("there was a dog.\n", SpecialTokens::as_text).size()));
}

TEST(RandomModel, needs_a_shape) {
  RunConfig run;
  run.model_path = "somewhere";
  tests::expect_error(ErrorKind::invalid_input, {"somewhere", "config.json"}, [&] { model_shape(run); });
}

}  // namespace
}  // namespace fulgur::bench
