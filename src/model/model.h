// The network: one forward for prefill, decode and training; one backward; and the head, apart.
#pragma once
#include <variant>
#include <vector>

#include "device/arena.h"
#include "device/stream.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/weights.h"

namespace fulgur {

// Rows that a layer's experts take at a time where nothing of them is kept (Exec::moe_rows).
inline constexpr int64_t kMoeRows = 65536;

// What one call may touch besides its operands. Nothing in the engine is global.
struct Exec {
  Stream& stream;
  Arena& scratch;  // rewound after every layer
  Arena& tape;     // what backward() reads back; untouched by inference
  const ModelConfig& config;
  // Attention sums in the order of the sequence, whatever the batch. False: on CUDA a long sequence may be cut, decided
  // by its own rows and the head count alone; faster, and still the same bits in every run.
  bool in_order = true;
  // Inference, and training that keeps inputs alone, run the second half of a layer over so many rows at a time, in
  // whole windows and blocks of Balance::row_block. Changes no bit.
  int64_t moe_rows = kMoeRows;

  // The same with one arena for all.
  Exec within(Arena& arena) const { return {stream, arena, arena, config, in_order, moe_rows}; }
};

// What each layer's backward reads back.
struct LightningSaved {
  Tensor x, qkv, attended, gate, gated, inverse_rms, starts;
};
struct SoftmaxSaved {
  Tensor x, qkv, attended, log_sum_exp;  // qkv after rotary
};
struct MoeSaved {
  Tensor x, expert_ids, weights, probabilities, log_sum_exp, entropy;
  Tensor sorted_rows, place, expert_begin;
  Tensor grouped, gate, up, middle, down;  // of every kept choice, by expert; zero where choices were dropped
};
struct LayerSaved {
  Tensor input, attention_inverse_rms, middle, moe_inverse_rms;
  std::variant<LightningSaved, SoftmaxSaved> attention;
  MoeSaved moe;
};
// How much of a layer stays on the tape: everything its backward reads, or its input alone; then backward runs that
// layer's forward again. Changes no bit.
enum class Keep : uint8_t { everything, inputs };
struct Saved {
  Keep keep = Keep::everything;
  std::vector<LayerSaved> layers;  // of Keep::inputs: nothing but the inputs
  Tensor last, final_inverse_rms;  // what the final norm read
};

// Columns of what a layer's router sums up over the rows of a step; f64, so one read fetches them all.
struct RouterSums {
  static constexpr int64_t kParts = 8;  // of a window, for drops by position
  static constexpr int64_t balance_loss = 0, z_loss = 1, entropy = 2, dropped = 3, load = dropped + kParts;
  static int64_t columns(int64_t experts) { return load + experts; }
};

// How training treats the routers (spec/model.md 8.10).
struct Balance {
  Tensor sums = {};       // f64 [layers, RouterSums::columns], accumulated; absent: no losses, and nothing is counted
  int64_t window = 0;     // rows
  int64_t row_block = 0;  // rows, divides a packed row: where a step may be cut into calls (ops/expert_linear.h)
  int64_t capacity = 0;   // choices of a window that an expert takes; 0: all
  double scale = 0;       // of ops/load_balance.h: alpha / windows of the whole step; 0: no auxiliary loss
  bool pooled = false;    // the auxiliary loss counts choices over all layers: form `transformers`
  double z_scale = 0;     // of ops/router_z_loss.h: z / rows of the whole step; 0: no z-loss
  bool first = false;     // nothing was added to the gradients of experts' matrices yet: what lies there is replaced
};

// ceil(factor * k * window / experts) rounded up to a multiple of 8; 0 for factor 0.
int64_t expert_capacity(const ModelConfig& config, int64_t window, double factor);

// What a branch leaves to the residual: a row for each, or of experts its choices, grouped (ops/residual_norm.h).
struct BranchOutput {
  Tensor rows, expert_weights = {}, place = {};
};

// One file per layer kind, forward and backward side by side. x: the normalised input; y, dy: the branch before the
// residual's beta; dx: overwritten; grads: accumulated. Backward may leave its own results in what was saved.
void lightning_forward(Exec& exec, const LightningWeights& w, int layer, const Batch& batch, Tensor y, Tensor x,
                       LightningSaved* saved);
void lightning_backward(Exec& exec, const LightningWeights& w, LightningWeights& grads, const Batch& batch,
                        const LightningSaved& saved, Tensor dx, Tensor dy);
void softmax_forward(Exec& exec, const SoftmaxWeights& w, int layer, const Batch& batch, Tensor y, Tensor x,
                     SoftmaxSaved* saved);
void softmax_backward(Exec& exec, const SoftmaxWeights& w, SoftmaxWeights& grads, const Batch& batch,
                      const SoftmaxSaved& saved, Tensor dx, Tensor dy);
BranchOutput moe_forward(Exec& exec, const MoeWeights& w, int layer, const Batch& batch, Tensor x, MoeSaved* saved);
void moe_backward(Exec& exec, const MoeWeights& w, MoeWeights& grads, int layer, const Batch& batch,
                  const MoeSaved& saved, const Balance& balance, Tensor dx, Tensor dy);

// model/model.cpp: hidden [outputs, width], normalised, in scratch (or on the tape). saved == nullptr: inference.
Tensor forward(Exec& exec, const ModelWeights& w, const Batch& batch, Saved* saved = nullptr);
// grads: wide views with the offsets of w, accumulated. d_hidden, of forward's result, and what was saved, but for the
// layers' inputs, are overwritten.
void backward(Exec& exec, const ModelWeights& w, ModelWeights& grads, const Batch& batch, const Saved& saved,
              const Balance& balance, Tensor d_hidden);

// model/head.cpp. Generation: logits, wide [rows, vocab], of hidden rows.
Tensor head_logits(Exec& exec, const ModelWeights& w, Tensor hidden);

struct Targets {
  Tensor tokens;       // i32 [rows]; -1: the row does not count
  Tensor scale;        // f64 [1]: 1 / rows that count in the whole step
  Tensor logits = {};  // f64 [2] of ops/magnitude.h, where somebody asks how large the logits are
};
// Training: adds to loss (f64 [1]) and to grads.head, and puts the gradient of hidden in its place; some rows at a
// time, so no [rows, vocab] tensor exists.
void head_loss(Exec& exec, const ModelWeights& w, ModelWeights& grads, Tensor hidden, Targets targets, Tensor loss);
// Evaluation: adds the sum of -log p of the targets to nats (f64 [1]).
void head_nats(Exec& exec, const ModelWeights& w, Tensor hidden, Tensor targets, Tensor nats);

}  // namespace fulgur
