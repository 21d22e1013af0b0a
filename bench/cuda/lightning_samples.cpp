#include <algorithm>
#include <cmath>
#include <thread>

#include "bench/cuda/gap.h"
#include "bench/cuda/kernels.h"
#include "bench/cuda/samples.h"
#include "device/arena.h"
#include "device/buffer.h"
#include "device/transfer.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kWindow = 32768;  // rows that the f64 twin computes

int cores() { return int(std::max(1u, std::thread::hardware_concurrency())); }

// Main memory for f64 copies of a sample.
class Copies {
 public:
  explicit Copies(int64_t elements)
      : memory_(size_t(elements) * 8 + 4096, Purpose::workspace), arena_(memory_.data(), memory_.bytes(), {}) {}
  Tensor empty(DType type, std::initializer_list<int64_t> shape) { return arena_.alloc(type, shape); }
  Tensor f64(Stream& stream, const Tensor& from, std::initializer_list<int64_t> shape) {
    const Tensor t = empty(DType::f64, shape);
    const std::vector<float> values = elements_of(stream, from);
    std::copy(values.begin(), values.end(), t.elements<double>());
    return t;
  }
  template <class T>
  Tensor values(const std::vector<T>& values) {
    const Tensor t = empty(dtype_of<T>, {int64_t(values.size())});
    std::copy(values.begin(), values.end(), t.elements<T>());
    return t;
  }

 private:
  Buffer memory_;
  Arena arena_;
};

// Which rows of which sequence are computed again.
struct Window {
  int64_t sequence, first, rows, compared_from;  // compared_from: counted from first
  int64_t start;                                 // the position of the first
  bool remembers;                                // of the state and tail that it started from
};

Window window_of(Stream& stream, const Tensor& row_begin, const Tensor& positions, bool slots) {
  const std::vector<int32_t> begin = download<int32_t>(stream, row_begin);
  const int64_t sequence = int64_t(begin.size() - 1) / 2, first = begin[size_t(sequence)];
  const int64_t all = begin[size_t(sequence) + 1] - first, rows = std::min(all, kWindow);
  const int64_t start = download<int64_t>(stream, positions.rows(first, first + 1))[0];
  return {.sequence = sequence,
          .first = first + all - rows,
          .rows = rows,
          .compared_from = rows < all ? rows / 2 : 0,
          .start = start,
          .remembers = slots && start > 0};
}

std::vector<int64_t> counted_from(int64_t start, int64_t count) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(start + i);
  return all;
}

void add(Gap& gap, const std::vector<float>& have, const double* want) {
  for (size_t i = 0; i < have.size(); ++i) gap.add(double(have[i]), want[i]);
}

// One head's rows of the window, [rows, 1, ...].
Tensor part_of(const Tensor& t, const Window& w, int64_t head) {
  return t.rows(w.first, w.first + w.rows).slice(1, head, head + 1);
}

// What is compared of it: [rows, ...]
std::vector<float> compared(Stream& stream, const Tensor& t, const Window& w, int64_t head) {
  return elements_of(stream, part_of(t, w, head).rows(w.compared_from, w.rows));
}

double silu(float x) { return double(x) / (1 + std::exp(-double(x))); }

// S of one head after all rows of a sequence that began at position 0, row by row in f64.
std::vector<double> recurrence(Stream& stream, const LightningAttention& op, int64_t first, int64_t rows,
                               int64_t head) {
  const int64_t width = op.o.dim(2);
  const double keep = std::exp(-double(elements_of(stream, op.decay.rows(head, head + 1))[0]));
  std::vector<double> state(size_t(width * width), 0.0), v(size_t(width), 0.0);
  for (int64_t done = 0; done < rows; done += kWindow) {
    const int64_t some = std::min(kWindow, rows - done);
    const Tensor part = op.qkv.rows(first + done, first + done + some).slice(1, head, head + 1);
    const std::vector<float> qkv = elements_of(stream, part);
    for (int64_t row = 0; row < some; ++row) {
      const float* const k = qkv.data() + (3 * row + 1) * width;
      for (int64_t d = 0; d < width; ++d) v[size_t(d)] = silu(k[width + d]);
      for (int64_t e = 0; e < width; ++e) {
        const double key = silu(k[e]);
        double* const to = state.data() + e * width;
        for (int64_t d = 0; d < width; ++d) to[d] = keep * to[d] + key * v[size_t(d)];
      }
    }
  }
  return state;
}

// Of the states that a call on the grid leaves of the window's sequence, which began with it.
double state_error(Stream& stream, const LightningAttention& op, int64_t sequence) {
  const std::vector<int32_t> begin = download<int32_t>(stream, op.row_begin);
  const int64_t first = begin[size_t(sequence)], rows = begin[size_t(sequence) + 1] - first;
  expect(rows % kGrid == 0, "the sequence ends on the grid");
  const int64_t heads[] = {0, op.o.dim(1) - 1};
  std::vector<double> want[2];
  std::vector<float> have[2];
  for (int i = 0; i < 2; ++i) {
    want[i] = recurrence(stream, op, first, rows, heads[i]);
    have[i] = elements_of(stream, op.state.at(sequence).at(heads[i]));
  }
  Gap gap;
  for (int i = 0; i < 2; ++i) add(gap, have[i], want[i].data());
  return gap.relative();
}

}  // namespace

double error_of(Stream& stream, const LightningAttention& op) {
  const Window w = window_of(stream, op.row_begin, op.positions, bool(op.slots));
  const int64_t width = op.o.dim(2);
  Stream cpu({}, cores());
  Gap gap;
  for (const int64_t head : {int64_t(0), op.o.dim(1) - 1}) {
    Copies copies(w.rows * width * 4 + w.rows + 2 * width * width + 2 * kGrid * width);
    LightningAttention again{.o = copies.empty(DType::f64, {w.rows, 1, width}),
                             .qkv = copies.f64(stream, part_of(op.qkv, w, head), {w.rows, 1, 3, width}),
                             .decay = copies.f64(stream, op.decay.rows(head, head + 1), {1}),
                             .row_begin = copies.values<int32_t>({0, int32_t(w.rows)}),
                             .positions = copies.values(counted_from(w.start, w.rows)),
                             .longest = w.rows};
    if (w.remembers) {
      const int64_t s = w.sequence;  // its slot too
      again.slots = copies.values<int32_t>({0});
      again.state = copies.f64(stream, op.state.at(s).at(head), {1, 1, width, width});
      again.tail = copies.f64(stream, op.tail.at(s).at(head), {1, 1, 2, kGrid, width});
    }
    lightning_attention(cpu, again);
    add(gap, compared(stream, op.o, w, head), again.o.elements<double>() + w.compared_from * width);
  }
  if (!op.slots || w.remembers) return gap.relative();
  return std::max(gap.relative(), state_error(stream, op, w.sequence));
}

double error_of(Stream& stream, const LightningAttentionBackward& op) {
  const Window w = window_of(stream, op.row_begin, op.positions, false);
  const int64_t width = op.d_o.dim(2);
  Stream cpu({}, cores());
  Gap gap;
  for (const int64_t head : {int64_t(0), op.d_o.dim(1) - 1}) {
    Copies copies(w.rows * width * 7 + w.rows);
    const LightningAttentionBackward again{.dqkv = copies.empty(DType::f64, {w.rows, 1, 3, width}),
                                           .d_o = copies.f64(stream, part_of(op.d_o, w, head), {w.rows, 1, width}),
                                           .qkv = copies.f64(stream, part_of(op.qkv, w, head), {w.rows, 1, 3, width}),
                                           .decay = copies.f64(stream, op.decay.rows(head, head + 1), {1}),
                                           .row_begin = copies.values<int32_t>({0, int32_t(w.rows)}),
                                           .positions = copies.values(counted_from(0, w.rows)),
                                           .longest = w.rows};
    lightning_attention_backward(cpu, again);
    add(gap, compared(stream, op.dqkv, w, head), again.dqkv.elements<double>() + w.compared_from * 3 * width);
  }
  return gap.relative();
}

}  // namespace fulgur::bench
