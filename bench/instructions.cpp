// Instructions that the CPU twins execute, counted by valgrind: each distinct call of a fixed tiny model's prefill,
// decode and training step is run again between two requests to callgrind. dev/callgrind runs it and judges the counts;
// standard output says what they were compiled with.
#include <gnu/libc-version.h>
#include <valgrind/callgrind.h>

#include <cstdio>

#include "base/error.h"
#include "bench/operators.h"
#include "bench/replayed.h"

namespace fulgur::bench {
namespace {

// Wide enough for whole blocks of every loop, with a ragged rest of rows; 135 rows cross the grid twice.
constexpr const char* kModel = R"({"model_type": "minimax_text_01", "vocab_size": 167, "hidden_size": 72,
  "num_hidden_layers": 2, "attn_type_list": [0, 1], "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
  "rotary_dim": 16, "rope_theta": 10000, "intermediate_size": 40, "num_local_experts": 4, "num_experts_per_tok": 2,
  "rms_norm_eps": 1e-5, "postnorm": true, "layernorm_linear_attention_alpha": 1.5, "layernorm_linear_attention_beta": 1,
  "layernorm_full_attention_alpha": 1.5, "layernorm_full_attention_beta": 1, "layernorm_mlp_alpha": 1.5,
  "layernorm_mlp_beta": 1, "max_position_embeddings": 4096, "tie_word_embeddings": false})";
constexpr int64_t kTokens = 135;

// One dump of callgrind per call, named by what it is of.
void count(DType type) {
  RunConfig run;
  run.model_json = kModel, run.steps = 1, run.lr = 1e-3, run.schedule = Schedule::constant, run.threads = 1;
  Stream stream;
  visit_operators({run, type, 1, kTokens, ""}, [&](const VisitedCall& v) {
    Replayed replayed(v.call, v.replay, 0);
    const std::string name = std::string(name_of(type)) + " " + v.phase + " " + v.call.name + " " + v.shape;
    replayed.prepare(0), replayed.run(stream, 0);  // what is set up once is not counted
    replayed.prepare(0);
    CALLGRIND_ZERO_STATS;
    CALLGRIND_TOGGLE_COLLECT;
    replayed.run(stream, 0);
    CALLGRIND_TOGGLE_COLLECT;
    CALLGRIND_DUMP_STATS_AT(name.c_str());
  });
}

int run() {
  try {
    std::printf("g++ %s, glibc %s\n", __VERSION__, gnu_get_libc_version());
    for (const DType type : {DType::f32, DType::bf16}) count(type);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "instructions: %s\n", error.what());
    return exit_code(error.kind());
  }
}

}  // namespace
}  // namespace fulgur::bench

int main() { return fulgur::bench::run(); }
