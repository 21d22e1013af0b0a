// Lightning attention's gradients in two sweeps: dq forward in time with the state recomputed, dk and dv backward in
// time with the state's gradient. Sums over rows run backward in time too, so a cut anywhere changes no bit.
#include "ops/cpu/lightning_block.h"
#include "ops/dtype_switch.h"
#include "ops/lightning_attention.h"

namespace fulgur::cpu {
namespace {

// One block's part of a call: batch rows from `row` are the block's rows [held, present); the tail holds those before.
struct Piece {
  int64_t row, held, present;
  int64_t rows() const { return present - held; }
};

// One head of one sequence.
template <class T>
class Head {
 public:
  Head(const LightningAttentionBackward& op, int64_t sequence, int64_t head, int64_t begin, int64_t end, int64_t held)
      : dqkv_(op.dqkv.view<T, 4>()),
        qkv_(op.qkv.view<T, 4>()),
        d_o_(op.d_o.view<T, 3>()),
        decay_(op.decay.view<Wide<T>, 1>()(head)),
        head_(head),
        width_(op.d_o.dim(2)),
        begin_(begin),
        end_(end),
        held_(held),
        blocks_((held + end - begin + kGrid - 1) / kGrid),
        remembers_(op.slots),
        scratch_(kGrid * (2 * width_ + kGrid) + width_ * width_, kGrid * (4 * width_ + kGrid) + width_ * width_) {
    if (remembers_) {
      const int32_t slot = op.slots.view<int32_t, 1>()(sequence);
      const auto matrix = [](const auto& view, int64_t axis, auto& first) {
        return Matrix{&first, view.stride[axis], 1};
      };
      const auto state = op.state.view<Wide<T>, 4>(), d_state = op.d_state.view<Wide<T>, 4>();
      const auto tail = op.tail.view<T, 5>();
      const auto d_tail = op.d_tail.view<Wide<T>, 5>();
      start_ = matrix(state, 2, state(slot, head, 0, 0)), d_state_ = matrix(d_state, 2, d_state(slot, head, 0, 0));
      tail_k_ = matrix(tail, 3, tail(slot, head, 0, 0, 0)), tail_v_ = matrix(tail, 3, tail(slot, head, 1, 0, 0));
      d_tail_k_ = matrix(d_tail, 3, d_tail(slot, head, 0, 0, 0));
      d_tail_v_ = matrix(d_tail, 3, d_tail(slot, head, 1, 0, 0));
    }
    k_ = own(kGrid), v_ = own(kGrid), aged_ = own(kGrid);
    scores_ = scratch_.take_wide(kGrid, kGrid), weights_ = scratch_.take(kGrid, kGrid);
    entering_state_ = own(width_);
  }

  // dq_i = lambda_(i+1) S do_i + sum over j <= i of lambda_(i-j) (do_i . v_j) k_j, then SiLU's gradient.
  void sweep_forward() {
    const Matrix<Wide<T>> state = own_wide(width_), dq = own_wide(kGrid);
    if (remembers_) copy_rows(state, start_, width_);
    bool known = remembers_;
    for (int64_t block = 0; block < blocks_; ++block) {
      const Piece piece = piece_of(block);
      load_keys(piece);
      const Matrix<const T> d_sums{&d_o_(piece.row, head_, 0), d_o_.stride[0], 1};
      if (known) {
        multiply(dq, d_sums, enter(state).transposed(), piece.rows(), width_, width_, Store::overwrite);
        rows_scale(dq.data, dq.row_stride, dq.data, dq.row_stride, decay_.powers() + piece.held + 1, 1, piece.rows(),
                   width_);
      }
      multiply(scores_, d_sums, v_.transposed(), piece.rows(), piece.present, width_, Store::overwrite);
      decay_.apply(weights_, scores_, piece.held, 1, piece.rows(), piece.present);
      multiply(dq, weights_, k_, piece.rows(), width_, piece.present, known ? Store::add : Store::overwrite);
      store(piece, 0, dq, 0);
      if (block + 1 == blocks_) break;
      close_block(decay_, state, known, k_, v_, aged_, width_);
      known = true;
    }
  }

  // dv_j = lambda_(63-j) k_j dS + sum over i >= j of lambda_(i-j) (q_i . k_j) do_i,
  // dk_j = lambda_(63-j) dS v_j + sum over i >= j of lambda_(i-j) (do_i . v_j) q_i, then
  // dS = lambda_64 dS + sum over i of lambda_(i+1) q_i^T do_i. An open block is in no state yet: its dk and dv begin
  // with the tail's gradient, and dS passes by.
  void sweep_backward() {
    const Matrix<T> forward_q = own(kGrid);
    const Matrix<Wide<T>> dk = own_wide(kGrid), dv = own_wide(kGrid);
    const Matrix<Wide<T>> d_state = remembers_ ? d_state_ : own_wide(width_);
    bool known = remembers_;
    for (int64_t block = blocks_ - 1; block >= 0; --block) {
      const Piece piece = piece_of(block);
      const bool full = piece.present == kGrid;
      load_keys(piece);
      // Queries and what flows into their sums, the block's last row first.
      load(forward_q.data, piece, 0);
      const Matrix<T> q{row_of(forward_q, piece.rows() - 1), -forward_q.row_stride, 1};
      const Matrix<const T> d_sums{&d_o_(piece.row + piece.rows() - 1, head_, 0), -d_o_.stride[0], 1};
      if (full && known) {
        leave_block(d_state, dk, dv);
      } else if (!full && remembers_) {
        copy_rows(dk, d_tail_k_, piece.present), copy_rows(dv, d_tail_v_, piece.present);
      }
      const Store store_sums = (full ? known : remembers_) ? Store::add : Store::overwrite;
      weigh(piece, q, k_);
      multiply(dv, weights_.transposed(), d_sums, piece.present, width_, piece.rows(), store_sums);
      weigh(piece, d_sums, v_);
      multiply(dk, weights_.transposed(), q, piece.present, width_, piece.rows(), store_sums);
      if (remembers_ || block > 0) {
        enter_block(piece, d_state, full, known, q, d_sums);
        known = true;
      }
      store_keys(piece, dk, dv);
    }
  }

 private:
  Matrix<T> own(int64_t rows) { return scratch_.take(rows, width_); }
  Matrix<Wide<T>> own_wide(int64_t rows) { return scratch_.take_wide(rows, width_); }

  Matrix<T> enter(const Matrix<Wide<T>>& state) const { return entering(state, entering_state_, width_, width_); }

  template <class U>
  void copy_rows(const Matrix<U>& to, const Matrix<U>& from, int64_t rows) const {
    for (int64_t j = 0; j < rows; ++j) std::copy_n(row_of(from, j), width_, row_of(to, j));
  }

  Piece piece_of(int64_t block) const {
    const int64_t first = begin_ - held_ + block * kGrid;  // the batch row that the block's first row has or would have
    return {std::max(first, begin_), block == 0 ? held_ : 0, std::min(kGrid, end_ - first)};
  }

  void load_keys(const Piece& piece) {
    copy_rows(k_, tail_k_, piece.held), copy_rows(v_, tail_v_, piece.held);
    load(row_of(k_, piece.held), piece, 1), load(row_of(v_, piece.held), piece, 2);
  }

  // The piece's rows of q, k or v (part 0, 1, 2) after SiLU.
  void load(T* to, const Piece& piece, int64_t part) const {
    rows_silu(to, width_, &qkv_(piece.row, head_, part, 0), qkv_.stride[0], piece.rows(), width_);
  }

  // Decayed products of rows (last first) with the block's keys or values.
  template <class Row>
  void weigh(const Piece& piece, const Matrix<Row>& rows, const Matrix<T>& keys) {
    multiply(scores_, rows, keys.transposed(), piece.rows(), piece.present, width_, Store::overwrite);
    decay_.apply(weights_, scores_, piece.present - 1, -1, piece.rows(), piece.present);
  }

  // What the state after the block passes to the block's keys and values.
  void leave_block(const Matrix<Wide<T>>& d_state, const Matrix<Wide<T>>& dk, const Matrix<Wide<T>>& dv) const {
    const Matrix<T> entering_d_state = enter(d_state);
    multiply(dv, aged(decay_, k_, aged_, width_), entering_d_state, kGrid, width_, width_, Store::overwrite);
    multiply(dk, aged(decay_, v_, aged_, width_), entering_d_state.transposed(), kGrid, width_, width_,
             Store::overwrite);
  }

  // From the gradient of the state after the block to that of the state before it.
  void enter_block(const Piece& piece, const Matrix<Wide<T>>& d_state, bool full, bool known, const Matrix<T>& q,
                   const Matrix<const T>& d_sums) const {
    if (full && known) scale_all(d_state, decay_(kGrid), width_);
    rows_scale(aged_.data, aged_.row_stride, q.data, q.row_stride, decay_.powers() + piece.present, -1, piece.rows(),
               width_);
    multiply(d_state, aged_.transposed(), d_sums, width_, width_, piece.rows(), known ? Store::add : Store::overwrite);
  }

  // The piece's gradients, which begin at row `first` of their matrix, through SiLU.
  void store(const Piece& piece, int64_t part, const Matrix<Wide<T>>& gradients, int64_t first) const {
    rows_silu_backward(&dqkv_(piece.row, head_, part, 0), dqkv_.stride[0], row_of(gradients, first),
                       gradients.row_stride, &qkv_(piece.row, head_, part, 0), qkv_.stride[0], piece.rows(), width_);
  }

  void store_keys(const Piece& piece, const Matrix<Wide<T>>& dk, const Matrix<Wide<T>>& dv) const {
    copy_rows(d_tail_k_, dk, piece.held), copy_rows(d_tail_v_, dv, piece.held);
    store(piece, 1, dk, piece.held), store(piece, 2, dv, piece.held);
  }

  const View<T, 4> dqkv_, qkv_;
  const View<T, 3> d_o_;
  const Decay<Wide<T>> decay_;
  const int64_t head_, width_, begin_, end_, held_, blocks_;
  const bool remembers_;
  Scratch<T> scratch_;
  Matrix<Wide<T>> start_{}, d_state_{}, d_tail_k_{}, d_tail_v_{}, scores_;
  Matrix<T> tail_k_{}, tail_v_{}, k_, v_, aged_, entering_state_;
  Matrix<T> weights_;  // decayed scores as they enter a product
};

}  // namespace

void lightning_attention_backward(Stream& stream, const LightningAttentionBackward& op) {
  with_element_type<double, float, bf16>(op.qkv.dtype, [&]<class T>() {
    const View<int32_t, 1> row_begin = op.row_begin.view<int32_t, 1>();
    const View<int64_t, 1> positions = op.positions.view<int64_t, 1>();
    const int64_t heads = op.d_o.dim(1), items = (row_begin.shape[0] - 1) * heads;
    stream.threads().for_each(2 * items, [&](int64_t item) {  // the two sweeps share nothing that either writes
      const int64_t sequence = item % items / heads, begin = row_begin(sequence), end = row_begin(sequence + 1);
      if (begin == end) return;
      Head<T> head(op, sequence, item % heads, begin, end, op.slots ? positions(begin) % kGrid : 0);
      if (item < items) {
        head.sweep_backward();
      } else {
        head.sweep_forward();
      }
    });
  });
}

}  // namespace fulgur::cpu
