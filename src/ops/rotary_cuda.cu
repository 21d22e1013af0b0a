// Rotary position embedding: (a, b) -> (a cos - b sin, b cos + a sin), with the CPU twin's angles, sines and cosines in
// f64. A block takes some rows: first each thread one direction of one row, then all of them the rows' heads, of which
// the first are on their way by then.
#include <algorithm>
#include <cmath>

#include "ops/cuda/rows.cuh"
#include "ops/rotary.h"
#include "ops/rotary_angle.h"

namespace fulgur::cuda {
namespace {

constexpr int kPairs = 128;  // of a head, turned by one launch
constexpr int kMostRows = 16, kMostThreads = 512;

struct Frequencies {
  double values[kPairs];
};

// Pairs [first, first + pairs) of every head; rows * pairs <= kThreads, the least threads of a block.
struct Piece {
  int first, pairs, rows;
  int64_t half;
  double sign;
};

template <bool kAligned, class T>
__global__ void __launch_bounds__(kMostThreads)
    turn(View<T, 3> x, View<int64_t, 1> positions, Frequencies frequencies, Piece piece) {
  follow();
  __shared__ float cosine[kThreads + kChunk], sine[kThreads + kChunk];
  const int64_t first_row = block_index() * piece.rows;
  const int chunks = int(divide_up(piece.pairs, kChunk)), heads = int(x.shape[1]), all = piece.rows * heads * chunks;
  // Some pairs of a head: where they lie, their directions, how many they are; none beyond the last row.
  T* low = nullptr;
  int direction = 0, left = 0;
  Chunk<T> lows{}, highs{};
  const auto fetch_pairs = [&](int i) {
    const int c = i % chunks * kChunk, at_head = i / chunks, at = at_head / heads;
    left = i < all && first_row + at < x.shape[0] ? piece.pairs - c : 0;
    if (left <= 0) return;
    low = &x(first_row + at, at_head % heads, piece.first + c), direction = at * piece.pairs + c;
    lows = fetch<kAligned>(low, left), highs = fetch<kAligned>(low + piece.half, left);
  };
  fetch_pairs(int(threadIdx.x));
  const int r = int(threadIdx.x) / piece.pairs, pair = int(threadIdx.x) % piece.pairs;
  if (r < piece.rows && first_row + r < x.shape[0]) {
    const Direction d = direction_of(double(positions(first_row + r)) * frequencies.values[pair]);
    cosine[threadIdx.x] = float(d.cosine), sine[threadIdx.x] = float(piece.sign * d.sine);
  }
  __syncthreads();
  for (int i = int(threadIdx.x); left > 0; i += int(blockDim.x)) {
    T* const to = low;
    const int at = direction, count = left;
    float a[kChunk], b[kChunk];
    unpack(a, lows), unpack(b, highs);
    fetch_pairs(i + int(blockDim.x));
#pragma unroll
    for (int e = 0; e < kChunk; ++e) {
      const float u = cosine[at + e], v = sine[at + e];
      const float turned = a[e] * u - b[e] * v;
      b[e] = b[e] * u + a[e] * v, a[e] = turned;
    }
    store<kAligned>(to, a, count);
    store<kAligned>(to + piece.half, b, count);
  }
}

// As many threads as make the rounds of a block full.
dim3 threads_for(const Piece& piece, int64_t heads) {
  const int64_t all = piece.rows * heads * divide_up(piece.pairs, kChunk), rounds = divide_up(all, kMostThreads);
  return dim3(unsigned(std::max<int64_t>(kThreads, divide_up(divide_up(all, rounds), 32) * 32)));
}

}  // namespace

void rotary(Stream& stream, const Rotary& op) {
  const int64_t half = op.rotary_dim / 2;
  with_cuda_type(op.x.dtype, [&]<class T>() {
    const View<T, 3> x = op.x.view<T, 3>();
    const View<int64_t, 1> positions = op.positions.view<int64_t, 1>();
    expect(x.stride[2] == 1 || x.shape[2] == 1, "the dims of a head lie end to end");
    with_flag(aligned(op.x) && half % kChunk == 0, [&]<bool kAligned>() {
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
        launch_following(stream, "rotary", divide_up(x.shape[0], piece.rows), threads_for(piece, x.shape[1]),
                         turn<kAligned, T>, x, positions, frequencies, piece);
      }
    });
  });
}

}  // namespace fulgur::cuda
