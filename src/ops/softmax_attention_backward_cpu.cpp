// Softmax attention's gradients: p = exp(s - log_sum_exp) is recomputed tile by tile, dv = p^T do, ds = p (do v^T - do
// o), dk = ds^T q and dq = ds k, both divided by sqrt(head_dim). One pass per key tile, one per row tile.
#include <cmath>

#include "ops/cpu/softmax_tiles.h"
#include "ops/dtype_switch.h"
#include "ops/softmax_attention.h"

namespace fulgur::cpu {
namespace {

template <class T>
Matrix<T> rows_at(const View<T, 3>& view, int64_t row, int64_t head) {
  return {&view(row, head, 0), view.stride[0], 1};
}

template <class T>
class Gradients {
 public:
  explicit Gradients(const SoftmaxAttentionBackward& op)
      : dq_(op.dq.view<T, 3>()),
        dk_(op.dk.view<T, 3>()),
        dv_(op.dv.view<T, 3>()),
        d_o_(op.d_o.view<T, 3>()),
        q_(op.q.view<T, 3>()),
        k_(op.k.view<T, 3>()),
        v_(op.v.view<T, 3>()),
        o_(op.o.view<T, 3>()),
        log_sum_exp_(op.log_sum_exp.view<Wide<T>, 2>()),
        tiles_(tiles_of(op.row_begin.view<int32_t, 1>(), op.positions.view<int64_t, 1>())),
        rows_(op.q.dim(0)),
        width_(op.q.dim(2)),
        group_(op.q.dim(1) / op.k.dim(1)),
        scale_(Wide<T>(1) / std::sqrt(Wide<T>(width_))),
        along_(size_t(op.q.dim(1) * rows_)) {}

  void run(Threads& threads) {
    const int64_t tiles = int64_t(tiles_.size()), heads = q_.shape[1], kv_heads = k_.shape[1];
    threads.for_each(tiles * heads, [&](int64_t item) { find_along(tiles_[size_t(item / heads)], item % heads); });
    threads.for_each(tiles * kv_heads, [&](int64_t item) { sum_over_rows(item / kv_heads, item % kv_heads); });
    threads.for_each(tiles * heads, [&](int64_t item) { sum_over_keys(tiles - 1 - item / heads, item % heads); });
  }

 private:
  struct Weights {
    Matrix<Wide<T>> p, flow;  // [rows of the row tile, keys of the key tile]
    Matrix<T> ds, space;      // as they enter a product: the scores' gradient, and p
    explicit Weights(Scratch<T>& scratch)
        : p(scratch.take_wide(kGrid, kGrid)),
          flow(scratch.take_wide(kGrid, kGrid)),
          ds(scratch.take(kGrid, kGrid)),
          space(scratch.take(kGrid, kGrid)) {}
  };

  // do . o of every row: the part of the gradient that only rescales the weights.
  void find_along(const RowTile& tile, int64_t head) {
    for (int64_t row = tile.row; row < tile.row + tile.rows; ++row)
      along_[size_t(head * rows_ + row)] = row_dot<T>(&d_o_(row, head, 0), &o_(row, head, 0), width_);
  }

  // Weights of the tile's rows for the keys of `keys`, and the gradient of their scores.
  void weigh(const Weights& weights, const RowTile& tile, const RowTile& keys, int64_t head) const {
    const int64_t kv_head = head / group_;
    multiply(weights.p, rows_at(q_, tile.row, head), rows_at(k_, keys.row, kv_head).transposed(), tile.rows, keys.rows,
             width_, Store::overwrite);
    rows_exp_seen<Wide<T>>(weights.p.data, weights.p.row_stride, scale_, &log_sum_exp_(head, tile.row), nullptr,
                           tile.seen(keys.block(), 1, keys.rows));
    multiply(weights.flow, rows_at(d_o_, tile.row, head), rows_at(v_, keys.row, kv_head).transposed(), tile.rows,
             keys.rows, width_, Store::overwrite);
    rows_sub_mul(weights.ds.data, weights.ds.row_stride, weights.flow.data, weights.flow.row_stride,
                 &along_[size_t(head * rows_ + tile.row)], weights.p.data, weights.p.row_stride, tile.rows, keys.rows);
  }

  // dk and dv of one tile of keys: the heads of the group in order, the rows that see the keys ascending, one chain.
  void sum_over_rows(int64_t index, int64_t kv_head) {
    const RowTile& keys = tiles_[size_t(index)];
    Scratch<T> scratch(2 * kGrid * (width_ + kGrid), 2 * kGrid * kGrid);
    const Weights weights(scratch);
    const Matrix<Wide<T>> dk = scratch.take_wide(kGrid, width_), dv = scratch.take_wide(kGrid, width_);
    Store store = Store::overwrite;
    for (int64_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head) {
      for (size_t t = size_t(index); t < tiles_.size() && tiles_[t].sequence == keys.sequence; ++t) {
        const RowTile& tile = tiles_[t];
        weigh(weights, tile, keys, head);
        multiply(dv, entering(weights.p, weights.space, tile.rows, keys.rows).transposed(),
                 rows_at(d_o_, tile.row, head), keys.rows, width_, tile.rows, store);
        multiply(dk, weights.ds.transposed(), rows_at(q_, tile.row, head), keys.rows, width_, tile.rows, store);
        store = Store::add;
      }
    }
    for (int64_t j = 0; j < keys.rows; ++j) {
      row_scale(row_of(dk, j), row_of(dk, j), scale_, width_);
      store_row(&dk_(keys.row + j, kv_head, 0), row_of(dk, j), width_);
      store_row(&dv_(keys.row + j, kv_head, 0), row_of(dv, j), width_);
    }
  }

  // dq of one tile of rows: the keys they see ascending.
  void sum_over_keys(int64_t index, int64_t head) {
    const RowTile& tile = tiles_[size_t(index)];
    Scratch<T> scratch(kGrid * (width_ + 2 * kGrid), 2 * kGrid * kGrid);
    const Weights weights(scratch);
    const Matrix<Wide<T>> dq = scratch.take_wide(kGrid, width_);
    for (int64_t t = index - tile.block(); t <= index; ++t) {
      const RowTile& keys = tiles_[size_t(t)];
      weigh(weights, tile, keys, head);
      multiply(dq, weights.ds, rows_at(k_, keys.row, head / group_), tile.rows, width_, keys.rows,
               keys.block() ? Store::add : Store::overwrite);
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
      row_scale(row_of(dq, i), row_of(dq, i), scale_, width_);
      store_row(&dq_(tile.row + i, head, 0), row_of(dq, i), width_);
    }
  }

  const View<T, 3> dq_, dk_, dv_, d_o_, q_, k_, v_, o_;
  const View<Wide<T>, 2> log_sum_exp_;
  const std::vector<RowTile> tiles_;  // without pages a sequence begins at position 0, so they are the key tiles too
  const int64_t rows_, width_, group_;
  const Wide<T> scale_;
  std::vector<Wide<T>> along_;  // [heads, rows]
};

}  // namespace

void softmax_attention_backward(Stream& stream, const SoftmaxAttentionBackward& op) {
  with_element_type<double, float, bf16>(op.q.dtype, [&]<class T>() { Gradients<T>(op).run(stream.threads()); });
}

}  // namespace fulgur::cpu
