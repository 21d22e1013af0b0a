// Rotary position embedding: (a, b) -> (a cos - b sin, b cos + a sin), with the CPU twin's angles, sines and cosines in
// f64. A block takes some rows: first each thread one direction of one row, then all of them the rows' heads.
#include <algorithm>
#include <cmath>

#include "ops/cuda/rows.cuh"
#include "ops/rotary.h"
#include "ops/rotary_angle.h"

namespace fulgur::cuda {
namespace {

constexpr int kPairs = 128;  // of a head, turned by one launch
constexpr int kMostRows = 16;

struct Frequencies {
  double values[kPairs];
};

// Pairs [first, first + pairs) of every head; rows * pairs <= kThreads.
struct Piece {
  int first, pairs, rows;
  int64_t half;
  double sign;
};

template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    turn(View<T, 3> x, View<int64_t, 1> positions, Frequencies frequencies, Piece piece) {
  constexpr int N = kAtOnce<T>;
  __shared__ float cosine[kThreads + N], sine[kThreads + N];
  const int64_t first_row = block_index() * piece.rows;
  const int r = int(threadIdx.x) / piece.pairs, pair = int(threadIdx.x) % piece.pairs;
  if (r < piece.rows && first_row + r < x.shape[0]) {
    const Direction d = direction_of(double(positions(first_row + r)) * frequencies.values[pair]);
    cosine[threadIdx.x] = float(d.cosine), sine[threadIdx.x] = float(piece.sign * d.sine);
  }
  __syncthreads();
  const int chunks = (piece.pairs + N - 1) / N, heads = int(x.shape[1]);
  for (int i = int(threadIdx.x); i < piece.rows * heads * chunks; i += kThreads) {
    const int c = i % chunks * N, head = i / chunks % heads, at = i / chunks / heads;
    if (first_row + at >= x.shape[0]) break;
    T* const low = &x(first_row + at, head, piece.first + c);
    float a[N], b[N];
    load<kAligned>(a, low, piece.pairs - c);
    load<kAligned>(b, low + piece.half, piece.pairs - c);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float u = cosine[at * piece.pairs + c + e], v = sine[at * piece.pairs + c + e];
      const float turned = a[e] * u - b[e] * v;
      b[e] = b[e] * u + a[e] * v, a[e] = turned;
    }
    store<kAligned>(low, a, piece.pairs - c);
    store<kAligned>(low + piece.half, b, piece.pairs - c);
  }
}

}  // namespace

void rotary(Stream& stream, const Rotary& op) {
  const int64_t half = op.rotary_dim / 2;
  with_cuda_type(op.x.dtype, [&]<class T>() {
    const View<T, 3> x = op.x.view<T, 3>();
    const View<int64_t, 1> positions = op.positions.view<int64_t, 1>();
    expect(x.stride[2] == 1 || x.shape[2] == 1, "the dims of a head lie end to end");
    with_flag(aligned(op.x) && half * int64_t(sizeof(T)) % 16 == 0, [&]<bool kAligned>() {
      for (int64_t first = 0; first < half; first += kPairs) {
        const int pairs = int(std::min<int64_t>(half - first, kPairs));
        const Piece piece{.first = int(first),
                          .pairs = pairs,
                          .rows = std::min(kThreads / pairs, kMostRows),
                          .half = half,
                          .sign = op.turn == Turn::forward ? 1.0 : -1.0};
        Frequencies frequencies{};
        for (int i = 0; i < pairs; ++i)
          frequencies.values[i] = std::pow(op.theta, -double(2 * (first + i)) / double(op.rotary_dim));
        launch_blocks(stream, "rotary", divide_up(x.shape[0], piece.rows), dim3(kThreads), turn<kAligned, T>, x,
                      positions, frequencies, piece);
      }
    });
  });
}

}  // namespace fulgur::cuda
