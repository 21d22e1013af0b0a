// Causal softmax attention, forward: per tile of rows, key blocks of 64 positions with running maximum and sum.
#include "ops/softmax_attention.h"

#include <cmath>

#include "ops/cpu/logarithm.h"
#include "ops/cpu/softmax_tiles.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// The keys and values that one KV head of one sequence has at a block of 64 positions.
template <class T>
class KeyBlocks {
 public:
  KeyBlocks(const SoftmaxAttention& op, int64_t sequence, int64_t kv_head) : kv_head_(kv_head) {
    if (op.kv_pages) {
      pages_ = op.kv_pages.view<T, 5>();
      table_ = &op.page_table.view<int32_t, 2>()(sequence, 0);
    } else {
      k_ = op.k.view<T, 3>(), v_ = op.v.view<T, 3>();
      first_row_ = op.row_begin.view<int32_t, 1>()(sequence);
    }
  }
  Matrix<const T> k(int64_t block) const { return table_ ? page(block, 0) : rows(k_, block); }
  Matrix<const T> v(int64_t block) const { return table_ ? page(block, 1) : rows(v_, block); }

 private:
  Matrix<const T> page(int64_t block, int64_t part) const {
    return {&pages_(table_[block], part, kv_head_, 0, 0), pages_.stride[3], 1};
  }
  Matrix<const T> rows(const View<T, 3>& view, int64_t block) const {
    return {&view(first_row_ + block * kGrid, kv_head_, 0), view.stride[0], 1};
  }

  const int64_t kv_head_;
  View<T, 3> k_{}, v_{};
  View<T, 5> pages_{};
  const int32_t* table_ = nullptr;
  int64_t first_row_ = 0;
};

// One tile of rows under one KV head: the rows of the head's whole group stand on each other, head by head.
template <class T>
class Tile {
 public:
  Tile(const SoftmaxAttention& op, const RowTile& tile, int64_t kv_head)
      : op_(op),
        tile_(tile),
        keys_(op, tile.sequence, kv_head),
        width_(op.q.dim(2)),
        group_(op.q.dim(1) / op.kv_heads()),
        first_head_(kv_head * group_),
        rows_(group_ * tile.rows),
        scale_(Wide<T>(1) / std::sqrt(Wide<T>(width_))),
        scratch_(rows_ * (width_ + kGrid + 4), rows_ * (width_ + kGrid)) {
    q_ = scratch_.take(rows_, width_), weights_ = scratch_.take(rows_, kGrid);
    sum_ = scratch_.take_wide(rows_, width_), scores_ = scratch_.take_wide(rows_, kGrid);
    maximum_ = scratch_.take_wide(rows_), total_ = scratch_.take_wide(rows_), shrink_ = scratch_.take_wide(rows_);
    added_ = scratch_.take_wide(rows_);
  }

  void run() {
    const View<T, 3> q = op_.q.view<T, 3>();
    for (int64_t r = 0; r < rows_; ++r) std::copy_n(&q(batch_row(r), head(r), 0), width_, row_of(q_, r));
    for (int64_t block = 0; block <= tile_.block(); ++block) {
      const int64_t present = tile_.seen(block, tile_.rows - 1);
      multiply(scores_, q_, keys_.k(block).transposed(), rows_, present, width_, Store::overwrite);
      weigh(block, present);
      multiply(sum_, entering(scores_, weights_, rows_, present), keys_.v(block), rows_, width_, present,
               block ? Store::add : Store::overwrite);
    }
    finish();
  }

 private:
  int64_t batch_row(int64_t r) const { return tile_.row + r % tile_.rows; }
  int64_t head(int64_t r) const { return first_head_ + r / tile_.rows; }

  // Scores to weights relative to the maximum so far, over exactly the keys that a row may see; zero elsewhere. What
  // was summed before shrinks to the new maximum. The total is that of the weights before they enter the product: so
  // log_sum_exp, from which backward recomputes them, is an f32 statistic, and o is off by no more than one rounding of
  // each weight.
  void weigh(int64_t block, int64_t present) {
    const Seen seen = tile_.seen(block, group_, present);
    rows_max_seen(shrink_, scores_.data, scores_.row_stride, seen);
    for (int64_t r = 0; r < rows_; ++r) {
      const Wide<T> highest = scale_ * shrink_[r], before = maximum_[r];
      maximum_[r] = block == 0 || highest > before ? highest : before;
      shrink_[r] = block == 0 ? Wide<T>(0) : before - maximum_[r];
    }
    row_exp(shrink_, shrink_, rows_);
    rows_exp_seen(scores_.data, scores_.row_stride, scale_, maximum_, added_, seen);
    for (int64_t r = 0; r < rows_; ++r) {
      total_[r] = block == 0 ? added_[r] : total_[r] * shrink_[r] + added_[r];
      if (block && shrink_[r] != Wide<T>(1)) row_scale(row_of(sum_, r), row_of(sum_, r), shrink_[r], width_);
    }
  }

  void finish() {
    const View<T, 3> o = op_.o.view<T, 3>();
    for (int64_t r = 0; r < rows_; ++r) row_scale(row_of(sum_, r), row_of(sum_, r), Wide<T>(1) / total_[r], width_);
    // A product that runs on over columns of zeros may or may not have turned -0 into +0; here a zero loses its sign.
    for (int64_t r = 0; r < rows_; r += tile_.rows)
      rows_store(&o(tile_.row, head(r), 0), o.stride[0], row_of(sum_, r), sum_.row_stride, tile_.rows, width_);
    if (!op_.log_sum_exp) return;
    const View<Wide<T>, 2> log_sum_exp = op_.log_sum_exp.view<Wide<T>, 2>();
    for (int64_t r = 0; r < rows_; ++r)
      log_sum_exp(head(r), batch_row(r)) = maximum_[r] + Wide<T>(fixed_log(double(total_[r])));
  }

  const SoftmaxAttention& op_;
  const RowTile tile_;
  const KeyBlocks<T> keys_;
  const int64_t width_, group_, first_head_, rows_;
  const Wide<T> scale_;
  Scratch<T> scratch_;
  Matrix<T> q_, weights_;  // the weights as they enter the product with v
  Matrix<Wide<T>> sum_, scores_;
  Wide<T>*maximum_, *total_, *shrink_, *added_;
};

}  // namespace

void softmax_attention(Stream& stream, const SoftmaxAttention& op) {
  with_element_type<double, float, bf16>(op.q.dtype, [&]<class T>() {
    const std::vector<RowTile> tiles = tiles_of(op.row_begin.view<int32_t, 1>(), op.positions.view<int64_t, 1>());
    for (const RowTile& tile : tiles)
      expect(!op.kv_pages || tile.block() < op.page_table.dim(1), "the page table reaches every position");
    const int64_t kv_heads = op.kv_heads(), items = int64_t(tiles.size()) * kv_heads;
    stream.threads().for_each(items, [&](int64_t item) {
      const int64_t late_first = items - 1 - item;  // a sequence's last tiles are its longest
      Tile<T>(op, tiles[size_t(late_first / kv_heads)], late_first % kv_heads).run();
    });
  });
}

}  // namespace fulgur::cpu
