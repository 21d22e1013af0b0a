// What lightning attention's tests compare with: the plain recurrence, and sequences that are served in chunks.
#pragma once
#include "ops/attention_case.h"
#include "ops/lightning_attention.h"

namespace fulgur::cases {

inline double silu(double x) { return x / (1 + std::exp(-x)); }

// What S_t = exp(-s) S_(t-1) + k_t^T v_t, o_t = q_t S_t gives for one sequence whose rows are qkv, without blocks.
// grid_state: S after the last multiple of 64 rows.
struct Recurrence {
  Tensor o, grid_state;
};

inline Recurrence recurrence(Bench& bench, const Tensor& qkv, const Tensor& decay) {
  const int64_t rows = qkv.dim(0), heads = qkv.dim(1), width = qkv.dim(3);
  const Recurrence result{bench.zeros(DType::f64, {rows, heads, width}),
                          bench.zeros(DType::f64, {heads, width, width})};
  const auto o = result.o.view<double, 3>(), kept = result.grid_state.view<double, 3>();
  for (int64_t h = 0; h < heads; ++h) {
    std::vector<double> state(size_t(width * width), 0.0);
    const double fade = std::exp(-get(decay, h));
    for (int64_t t = 0; t < rows; ++t) {
      const auto part = [&](int64_t p, int64_t d) { return silu(get(qkv, ((t * heads + h) * 3 + p) * width + d)); };
      std::vector<double> q, k, v;
      for (int64_t d = 0; d < width; ++d) q.push_back(part(0, d)), k.push_back(part(1, d)), v.push_back(part(2, d));
      for (int64_t d = 0; d < width; ++d) {
        for (int64_t e = 0; e < width; ++e) {
          double& s = state[size_t(d * width + e)];
          s = fade * s + k[size_t(d)] * v[size_t(e)];
          o(t, h, e) += q[size_t(d)] * s;
          if ((t + 1) % kGrid == 0) kept(h, d, e) = s;
        }
      }
    }
  }
  return result;
}

// Sequences that go through the operator in chunks, each with a slot of its own.
class Served {
 public:
  Served(Bench& bench, DType type, int64_t heads, int64_t width, int64_t threads)
      : bench_(bench), type_(type), heads_(heads), width_(width), stream_({}, int(threads)) {
    decay = decays(bench, type, heads);
    state = bench.zeros(wide(type), {kSlots, heads, width, width});
    tail = bench.empty(type, {kSlots, heads, 2, kGrid, width});
  }
  void add(const Tensor& qkv, int64_t chunk) {
    sequences.push_back({qkv, bench_.empty(type_, {qkv.dim(0), heads_, width_}),
                         bench_.empty(wide(type_), {heads_, qkv.dim(0)}), chunk,
                         int64_t(5 + 3 * sequences.size()) % kSlots, 0});
  }
  void run(int64_t rows = INT64_MAX) {  // to the end, or until the first sequence has taken so many
    while (sequences[0].done < rows && step()) {
    }
  }

  struct Sequence {
    Tensor qkv, o, squares;
    int64_t chunk, slot, done;
  };
  static constexpr int64_t kSlots = 7;
  std::vector<Sequence> sequences;
  Tensor decay, state, tail;
  bool in_order = true;

  Tensor counting_tail(const Sequence& s) const { return tail.at(s.slot).slice(2, 0, s.done % kGrid); }

 private:
  bool step() {
    std::vector<int64_t> counts, starts, slots;
    for (const Sequence& s : sequences) {
      counts.push_back(std::min(s.chunk, s.qkv.dim(0) - s.done)), starts.push_back(s.done), slots.push_back(s.slot);
    }
    const Arena::Scope scope(bench_.arena());
    const Layout layout = lay_out(bench_, counts, starts);
    if (layout.rows == 0) return false;
    const Tensor qkv = bench_.empty(type_, {layout.rows, heads_, 3, width_});
    const Tensor o = bench_.empty(type_, {layout.rows, heads_, width_}),
                 squares = bench_.empty(wide(type_), {heads_, layout.rows});
    int64_t row = 0;
    for (size_t i = 0; i < sequences.size(); row += counts[i++])
      copy_elements(qkv.rows(row, row + counts[i]),
                    sequences[i].qkv.rows(sequences[i].done, sequences[i].done + counts[i]));
    lightning_attention(stream_, {.o = o,
                                  .qkv = qkv,
                                  .decay = decay,
                                  .row_begin = layout.row_begin,
                                  .positions = layout.positions,
                                  .longest = layout.longest,
                                  .slots = bench_.indices(DType::i32, slots),
                                  .state = state,
                                  .tail = tail,
                                  .squares = squares,
                                  .in_order = in_order});
    row = 0;
    for (size_t i = 0; i < sequences.size(); row += counts[i++]) {
      Sequence& s = sequences[i];
      copy_elements(s.o.rows(s.done, s.done + counts[i]), o.rows(row, row + counts[i]));
      copy_elements(s.squares.slice(1, s.done, s.done + counts[i]), squares.slice(1, row, row + counts[i]));
      s.done += counts[i];
    }
    return true;
  }

  Bench& bench_;
  DType type_;
  int64_t heads_, width_;
  CaseStream stream_;
};

inline void expect_same_sequence(const Served& have, size_t i, const Served& want, const char* what) {
  const Served::Sequence &a = have.sequences[i], &b = want.sequences[0];
  EXPECT_TRUE(same_bits(a.o, b.o)) << what << ": o";
  EXPECT_TRUE(same_bits(a.squares, b.squares)) << what << ": squares";
  EXPECT_TRUE(same_bits(have.state.at(a.slot), want.state.at(b.slot))) << what << ": state";
  EXPECT_TRUE(same_bits(have.counting_tail(a), want.counting_tail(b))) << what << ": tail";
}

}  // namespace fulgur::cases
