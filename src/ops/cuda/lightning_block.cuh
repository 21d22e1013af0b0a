// A block of 64 rows of one head of lightning attention in shared memory: loading, SiLU, decay and the products.
//
// Forward and backward are four walks of one kind. Rows i of a block get
//   result_i = before(i) query_i S + sum over j of (lambda_|i-j| query_i . key_j) value_j
// and then S = lambda_64 S + sum over j of (after(j) key_j)^T value_j, where the parts are played by
//   result | queries | keys | values | time     | rows j | before(i)    | after(j)
//   o      | q       | k    | v      | forward  | j <= i | lambda_(i+1) | lambda_(63-j), as ever of k
//   dq     | d_o     | v    | k      | forward  |        |              |   and so of the values here
//   dv     | k       | q    | d_o    | backward | j >= i | lambda_(63-i)| lambda_(j+1), of q
//   dk     | v       | d_o  | q      | backward |        |              |
// A thread block keeps kValues columns of the values, of S and of the result: columns share nothing, so that any number
// of thread blocks gives the same bits.
#pragma once
#include "base/grid.h"
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/tiles.cuh"
#include "ops/cuda/vectors.cuh"

namespace fulgur::cuda {

inline constexpr int kBlock = int(kGrid);

// A block's part of a call: rows [held, present) are the call's, batch row `first` + row; those before lie in the tail.
struct Piece {
  int64_t first;
  int held, present;
  __device__ bool has(int row) const { return row >= held && row < present; }
};

// The rows of one sequence in a call, cut into blocks.
struct Span {
  int64_t begin, end;
  int held;
  __device__ int blocks() const { return int((held + end - begin + kBlock - 1) / kBlock); }
  __device__ Piece piece(int block) const {
    const int64_t first = begin - held + int64_t(block) * kBlock, left = end - first;
    return {first, block == 0 ? held : 0, int(left < kBlock ? left : kBlock)};
  }
};

// Where a part's rows come from.
template <class T>
struct Rows {
  const T* data;  // batch row 0
  int64_t stride;
  const T* tail;  // row 0 of the block that the call begins in; null: the part has no rows before the call
  int64_t tail_stride;
  bool passes_silu;  // on the way from `data`; a tail's rows have

  __device__ const T* at(const Piece& piece, int row) const {  // null: absent
    if (piece.has(row)) return data + (piece.first + row) * stride;
    return tail && row < piece.held ? tail + row * tail_stride : nullptr;
  }
};

template <class T>
struct Parts {
  Rows<T> queries, keys, values;
  bool ages_keys;  // after(j) falls to the keys, else to the values
};

template <class Element, int kWidthOf, int kValuesOf, bool kBackwardOf>
struct LightningBlock {
  using T = Element;
  static constexpr int kWidth = kWidthOf, kValues = kValuesOf;  // columns of keys and queries, and of values
  static constexpr bool kBackward = kBackwardOf;                // in time: the block's last row comes first
  static constexpr int kParts = kWidth / kValues;               // thread blocks that share a head
  static constexpr int kThreads = kValues == 32 ? 128 : 256, kWarps = kThreads / 32;
  static constexpr int kStages = sizeof(T) == 2 ? 2 : 1;
  // Thread blocks that are to fit into a processor's registers and shared memory at once.
  static constexpr bool kLarge = kWidth * int(sizeof(T)) > 256 || kValues == 128;
  static constexpr int kPerProcessor = kLarge ? 1 : kWidth < 128 && kThreads == 128 ? 4 : 2;

  // Warps over the block's rows and columns, and over the state's.
  static constexpr int kRowWarps = 4, kColumnWarps = kWarps / kRowWarps;
  static constexpr int kSumTiles = kValues / 8 / kColumnWarps, kScoreTiles = kBlock / 8 / kColumnWarps;
  static constexpr int kStateRowWarps = kWidth / 16 < 4 ? kWidth / 16 : 4, kStateColumnWarps = kWarps / kStateRowWarps;
  static constexpr int kStateDown = kWidth / 16 / kStateRowWarps, kStateAcross = kValues / 8 / kStateColumnWarps;
  using BlockSums = Sums<1, kSumTiles>;
  using Scores = Sums<1, kScoreTiles>;
  using State = Sums<kStateDown, kStateAcross>;

  // Rows are 16 bytes longer than their columns, so that eight of them reach all banks. Scores lie where the queries
  // were.
  static constexpr int kPad = kVector<T>;
  static constexpr int kQueryStride = (kWidth > kBlock ? kWidth : kBlock) + kPad, kKeyStride = kWidth + kPad,
                       kValueStride = kValues + kPad;
  static constexpr int kStageElements = kBlock * (kQueryStride + kKeyStride + kValueStride);
  static constexpr int kElements = kStages * kStageElements + kWidth * kValueStride, kPowers = kBlock + 4;
  static constexpr size_t kBytes = size_t(kElements) * sizeof(T) + kPowers * sizeof(float);

  T* const shared;
  float* const powers;  // lambda_n, n = 0 ... 64
  const int warp = int(threadIdx.x) / 32;
  const int row0 = warp % kRowWarps * 16;  // the warp's rows of the block
  const int sum_column0 = warp / kRowWarps * 8 * kSumTiles, score_column0 = warp / kRowWarps * 8 * kScoreTiles;
  const int state_row0 = warp % kStateRowWarps * 16 * kStateDown,
            state_column0 = warp / kStateRowWarps * 8 * kStateAcross;

  // Powers are seen after the next barrier.
  __device__ LightningBlock(unsigned char* memory, float slope)
      : shared(reinterpret_cast<T*>(memory)), powers(reinterpret_cast<float*>(shared + kElements)) {
    for (int n = int(threadIdx.x); n <= kBlock; n += kThreads)
      powers[n] = float(exp(-double(__fmul_rn(slope, float(n)))));
  }

  __device__ Tile<T> queries(int stage) const { return {shared + stage * kStageElements, kQueryStride}; }
  __device__ Tile<T> keys(int stage) const { return {queries(stage).at(kBlock, 0), kKeyStride}; }
  __device__ Tile<T> values(int stage) const { return {keys(stage).at(kBlock, 0), kValueStride}; }
  __device__ Tile<T> scores(int stage) const { return queries(stage); }
  __device__ Tile<T> entering_state() const { return {shared + kStages * kStageElements, kValueStride}; }

  __device__ float before(int row) const { return powers[kBackward ? kBlock - 1 - row : row + 1]; }
  __device__ float after(int row) const { return powers[kBackward ? row + 1 : kBlock - 1 - row]; }

  // Begins to fetch a piece's rows, zeros where there are none. columns: of keys and queries, and of values, that
  // exist.
  __device__ void fetch(int stage, const Parts<T>& parts, const Piece& piece, int columns, int value_columns) const {
    fetch<kWidth>(queries(stage), parts.queries, piece, columns);
    fetch<kWidth>(keys(stage), parts.keys, piece, columns);
    fetch<kValues>(values(stage), parts.values, piece, value_columns);
  }

  // After wait_for_copies, of what the calling thread fetched.
  __device__ void pass_silu(int stage, const Parts<T>& parts, const Piece& piece) const {
    pass_silu<kWidth>(queries(stage), parts.queries, piece);
    pass_silu<kWidth>(keys(stage), parts.keys, piece);
    pass_silu<kValues>(values(stage), parts.values, piece);
  }

  // sums = before(i) query_i S
  __device__ __forceinline__ void multiply_state(BlockSums& sums, int stage) const {
    multiply_add<Steps::inside, Steps::outside, false>(sums, queries(stage).from(row0, 0),
                                                       entering_state().from(0, sum_column0), 0, kWidth);
    for_pairs(sums, [&](int row, int, float& x, float& y) {
      const float factor = before(row0 + row);
      x = __fmul_rn(factor, x), y = __fmul_rn(factor, y);
    });
  }

  // Columns j of the warp's scores that its rows i have: j <= i, backward j >= i. A warp's rows and nothing else decide
  // how far its sums run.
  __device__ int first_step() const { return kBackward ? row0 : 0; }
  __device__ int last_step() const { return kBackward ? kBlock : row0 + 16; }

  __device__ __forceinline__ void multiply_keys(Scores& scores, int stage) const {
    if (score_column0 >= last_step() || score_column0 + 8 * kScoreTiles <= first_step()) return;
    multiply_add<Steps::inside, Steps::inside, false>(scores, queries(stage).from(row0, 0),
                                                      keys(stage).from(score_column0, 0), 0, kWidth);
  }

  __device__ __forceinline__ void store_scores(Scores& sums, int stage) const {
    const Tile<T> to = scores(stage).from(row0, score_column0);
    const auto decayed = [&](int row, int column, float x) {
      const int distance = kBackward ? column - row : row - column;
      return distance < 0 ? 0 : __fmul_rn(powers[distance], x);
    };
    for_pairs(sums, [&](int row, int column, float x, float y) {
      const int i = row0 + row, j = score_column0 + column;
      store_pair(to.at(row, column), decayed(i, j, x), decayed(i, j + 1, y));
    });
  }

  __device__ __forceinline__ void multiply_values(BlockSums& sums, int stage) const {
    multiply_add<Steps::inside, Steps::outside, kBackward>(
        sums, scores(stage).from(row0, 0), values(stage).from(0, sum_column0), first_step(), last_step());
  }

  // Row j times after(j), in place.
  __device__ void age(int stage, bool of_keys) const {
    if (of_keys) age<kWidth>(keys(stage));
    else age<kValues>(values(stage));
  }

  // S = lambda_64 S (where `fades`) + keys^T values, one of them aged.
  __device__ __forceinline__ void add_block(State& state, bool fades, int stage) const {
    const float factor = powers[kBlock];
    if (fades)
      for_pairs(state, [&](int, int, float& x, float& y) { x = __fmul_rn(factor, x), y = __fmul_rn(factor, y); });
    multiply_add<Steps::outside, Steps::outside, kBackward>(state, keys(stage).from(0, state_row0),
                                                            values(stage).from(0, state_column0), 0, kBlock);
  }

  // S as it enters a product.
  __device__ __forceinline__ void enter(State& state) const {
    const Tile<T> to = entering_state().from(state_row0, state_column0);
    for_pairs(state, [&](int row, int column, float x, float y) { store_pair(to.at(row, column), x, y); });
  }

 private:
  // The thread's vectors of a tile: body(row, column).
  template <int kColumns, class Body>
  __device__ __forceinline__ static void for_vectors(Body body) {
    constexpr int kAcross = kColumns / kVector<T>;
    static_assert(kBlock * kAcross % kThreads == 0);
#pragma unroll 4
    for (int i = int(threadIdx.x); i < kBlock * kAcross; i += kThreads) body(i / kAcross, i % kAcross * kVector<T>);
  }

  template <int kColumns>
  __device__ static void fetch(Tile<T> to, const Rows<T>& from, const Piece& piece, int columns) {
    for_vectors<kColumns>([&](int row, int column) {
      const T* source = from.at(piece, row);
      const bool there = source && column < columns;
      copy_async(to.at(row, column), there ? source + column : from.data, there);
    });
  }

  template <int kColumns>
  __device__ static void pass_silu(Tile<T> tile, const Rows<T>& from, const Piece& piece) {
    if (!from.passes_silu) return;
    for_vectors<kColumns>([&](int row, int column) {
      if (piece.has(row)) change_vector(tile.at(row, column), [](float x) { return silu<T>(x); });
    });
  }

  template <int kColumns>
  __device__ void age(Tile<T> tile) const {
    for_vectors<kColumns>([&](int row, int column) {
      const float factor = after(row);
      change_vector(tile.at(row, column), [factor](float x) { return __fmul_rn(factor, x); });
    });
  }
};

}  // namespace fulgur::cuda
