// Lightning attention on the grid of 64, forward: per head and block, o = lambda * q S + (lambda o q k^T) v, then
// S = lambda_64 S + (lambda k)^T v once the block is full.
#include "ops/lightning_attention.h"

#include <vector>

#include "ops/cpu/lightning_block.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kPieces = 4;  // of a thread, so that one which is late leaves its share to others

// One head of one sequence, walked from block to block.
template <class T>
class HeadWalk {
 public:
  HeadWalk(const LightningAttention& op, const Decay<Wide<T>>& decay, int64_t sequence, int64_t head)
      : o_(op.o.view<T, 3>()),
        qkv_(op.qkv.view<T, 4>()),
        decay_(decay),
        head_(head),
        width_(op.o.dim(2)),
        remembers_(op.slots),
        state_known_(op.slots),
        scratch_(kGrid * (width_ + kGrid) + (op.slots ? 0 : width_ * width_),
                 kGrid * (2 * width_ + kGrid) + width_ * width_ + (op.slots ? 0 : 2 * kGrid * width_)) {
    if (op.squares) squares_ = &op.squares.view<Wide<T>, 2>()(head, 0);
    if (remembers_) {
      const int32_t slot = op.slots.view<int32_t, 1>()(sequence);
      const View<Wide<T>, 4> state = op.state.view<Wide<T>, 4>();
      const View<T, 5> tail = op.tail.view<T, 5>();
      state_ = {&state(slot, head, 0, 0), state.stride[2], 1};
      k_ = {&tail(slot, head, 0, 0, 0), tail.stride[3], 1};
      v_ = {&tail(slot, head, 1, 0, 0), tail.stride[3], 1};
    } else {
      state_ = scratch_.take_wide(width_, width_), k_ = scratch_.take(kGrid, width_), v_ = scratch_.take(kGrid, width_);
    }
    sum_ = scratch_.take_wide(kGrid, width_), scores_ = scratch_.take_wide(kGrid, kGrid);
    q_ = scratch_.take(kGrid, width_), aged_ = scratch_.take(kGrid, width_);
    entering_state_ = scratch_.take(width_, width_), entering_scores_ = scratch_.take(kGrid, kGrid);
  }

  // Rows [row, end) of the batch; `held` rows of their first block lie in the tail.
  void run(int64_t row, int64_t end, int64_t held) {
    fetch(k_, held), fetch(v_, held);
    while (row < end) {
      const int64_t rows = std::min(kGrid - held, end - row), present = held + rows;
      load(row, held, present);
      attend(row, held, present);
      row += rows, held = 0;
      if (present == kGrid && (remembers_ || row < end)) {
        close_block(decay_, state_, state_known_, k_, v_, aged_, width_);
        state_known_ = true;
      }
    }
  }

 private:
  // Asks for rows of the tail: the state is read first.
  void fetch(const Matrix<T>& rows, int64_t count) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < width_; j += kLine) __builtin_prefetch(row_of(rows, i) + j, 0, 2);
  }

  // In the block's rows [held, present): k and v appended to what the block holds, q from the top of its own matrix.
  void load(int64_t row, int64_t held, int64_t present) {
    load(q_.data, q_.row_stride, row, 0, present - held);
    load(row_of(k_, held), k_.row_stride, row, 1, present - held);
    load(row_of(v_, held), v_.row_stride, row, 2, present - held);
  }
  void load(T* to, int64_t stride, int64_t row, int64_t part, int64_t rows) {
    rows_silu(to, stride, &qkv_(row, head_, part, 0), qkv_.stride[0], rows, width_);
  }

  void attend(int64_t row, int64_t held, int64_t present) {
    const int64_t rows = present - held;
    if (state_known_) {
      multiply_entering(sum_, q_, state_, entering_state_, rows, width_, width_);
      rows_scale(sum_.data, sum_.row_stride, sum_.data, sum_.row_stride, decay_.powers() + held + 1, 1, rows, width_);
    }
    multiply(scores_, q_, k_.transposed(), rows, present, width_, Store::overwrite);
    decay_.apply(entering_scores_, scores_, held, 1, rows, present);
    multiply(sum_, entering_scores_, v_, rows, width_, present, state_known_ ? Store::add : Store::overwrite);
    // Of the sums, before o is rounded: an f32 statistic, and the norm's error is the same either way but for one part
    // in all its columns.
    for (int64_t r = 0; squares_ && r < rows; ++r)
      squares_[row + r] = row_dot(row_of(sum_, r), row_of(sum_, r), width_);
    // A product that runs on over columns of zeros may or may not have turned -0 into +0; here a zero loses its sign.
    rows_store(&o_(row, head_, 0), o_.stride[0], sum_.data, sum_.row_stride, rows, width_);
  }

  const View<T, 3> o_;
  const View<T, 4> qkv_;
  const Decay<Wide<T>>& decay_;
  const int64_t head_, width_;
  const bool remembers_;
  bool state_known_;  // false: it is zero, and sums start from +0 instead, which is the same bits
  Scratch<T> scratch_;
  Matrix<Wide<T>> state_, sum_, scores_;
  Matrix<T> q_, k_, v_, aged_, entering_state_, entering_scores_;
  Wide<T>* squares_ = nullptr;
};

}  // namespace

void lightning_attention(Stream& stream, const LightningAttention& op) {
  with_element_type<double, float, bf16>(op.o.dtype, [&]<class T>() {
    const View<int32_t, 1> row_begin = op.row_begin.view<int32_t, 1>();
    const View<int64_t, 1> positions = op.positions.view<int64_t, 1>();
    const int64_t heads = op.o.dim(1);
    std::vector<Decay<Wide<T>>> decays;
    for (int64_t head = 0; head < heads; ++head) decays.emplace_back(op.decay.view<Wide<T>, 1>()(head));
    // Of single rows a thread takes neighbouring heads, whose states lie one behind the other.
    const int64_t items = (row_begin.shape[0] - 1) * heads;
    const int64_t grain = op.longest > 1 ? 1 : std::max<int64_t>(1, items / (kPieces * stream.threads().count()));
    stream.threads().for_ranges(items, grain, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        const int64_t sequence = item / heads, head = item % heads;
        const int64_t begin = row_begin(sequence), end = row_begin(sequence + 1);
        if (begin == end) continue;
        const int64_t held = op.slots ? positions(begin) % kGrid : 0;
        HeadWalk<T>(op, decays[size_t(head)], sequence, head).run(begin, end, held);
      }
    });
  });
}

}  // namespace fulgur::cpu
