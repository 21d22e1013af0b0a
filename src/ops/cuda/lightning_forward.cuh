// Lightning attention, forward: o, its squares, and the state and tail that a call leaves behind.
#pragma once
#include "ops/cuda/lightning_operands.cuh"

namespace fulgur::cuda {

template <class T>
struct LightningForward {
  LightningInputs<T> in;
  View<T, 3> o;
  View<float, 2> squares;
  Ranks ranks;
};

// Sums of squares are added up in pieces of 32 columns, then the pieces in order, however the columns are divided: each
// piece goes to the first thread block of the cluster, which stores the sum one block of rows later. Without a cluster
// a thread block goes on with the sum of those before it.
inline constexpr int kSquarePiece = 32;

template <class Block>
struct ForwardCall {
  using T = typename Block::T;
  using BlockSums = typename Block::BlockSums;
  static constexpr int kPieces = Block::kWidth / kSquarePiece;
  using Squares = float[2][kPieces][kBlock];

  const LightningForward<T>& op;
  const Block& block;
  Squares& pieces;
  const int64_t slot, head;
  const int part;
  const Span span;
  const int columns = op.in.columns(), column0 = part * Block::kValues, value_columns = columns - column0;
  const Parts<T> parts{op.in.rows(slot, head, 0, 0), op.in.rows(slot, head, 1, 0), op.in.rows(slot, head, 2, column0),
                       true};

  const HeadRows<T> o{&op.o(0, head, column0), op.o.stride[0]};

  // For the tail's k and each other's shared memory.
  __device__ bool together() const { return Block::kParts > 1 && op.ranks.together(); }
  __device__ bool alone() const { return Block::kParts > 1 && op.ranks.alone >= 0; }
  __device__ StoredState stored() const { return op.in.stored(op.in.state, slot, head, column0, false); }
  __device__ StoredState begins_with() const { return stored(); }

  __device__ bool wants(int row0, const Piece& piece) const { return row0 < piece.present && row0 + 16 > piece.held; }
  __device__ void begin(BlockSums&, const Piece&) const {}
  __device__ bool closes(const Piece& piece, bool last) const {
    return piece.present == kBlock && (op.in.slots.data || !last);
  }

  __device__ __forceinline__ void store(BlockSums& sums, const Piece& piece, int n) const {
    // A sum of zeros may be -0, in one way of cutting a sequence and not in another.
    for_pairs(sums, [&](int row, int column, float& x, float& y) {
      x = __fadd_rn(x, 0), y = __fadd_rn(y, 0);
      const int r = block.row0 + row, c = block.sum_column0 + column;
      if (piece.has(r) && c < value_columns) store_pair(o.at(piece.first + r, c), x, y);
    });
    if (!op.squares.data) return;
    constexpr int kTiles = kSquarePiece / 8;
#pragma unroll
    for (int first = 0; first < Block::kSumTiles; first += kTiles)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = 0;
#pragma unroll
        for (int tile = first; tile < first + kTiles; ++tile) {
          const float x = sums[0][tile][2 * half], y = sums[0][tile][2 * half + 1];
          sum = __fmaf_rn(y, y, __fmaf_rn(x, x, sum));
        }
        sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, 1));
        sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, 2));
        if (threadIdx.x % 4 == 0) {
          const int index = (column0 + block.sum_column0 + 8 * first) / kSquarePiece;
          float* at = &pieces[n % 2][index][block.row0 + 8 * half + int(threadIdx.x) % 32 / 4];
          if (together()) store_shared(at, 0, sum);
          else *at = sum;
        }
      }
  }

  __device__ void end_block() const {
    if (together() && op.squares.data) cluster_arrive();
  }
  // What the block before left: after a barrier of the thread block; the cluster's was begun by its end.
  __device__ void begin_block(int n) const {
    if (n == 0 || !op.squares.data) return;
    if (together()) cluster_wait();
    const Piece piece = span.piece(n - 1);
    const int row = int(threadIdx.x);
    if ((part > 0 && !alone()) || !piece.has(row)) return;
    constexpr int kOwn = kPieces / Block::kParts;
    const int first = alone() ? part * kOwn : 0, end = alone() ? first + kOwn : kPieces;
    const auto& of = pieces[(n - 1) % 2];
    float& to = op.squares(head, piece.first + row);
    float sum = first > 0 ? __fadd_rn(to, of[first][row]) : of[0][row];
    for (int i = first + 1; i < end; ++i) sum = __fadd_rn(sum, of[i][row]);
    to = sum;
  }

  __device__ __forceinline__ void finish(typename Block::State& state, bool changed) const {
    __syncthreads();
    begin_block(span.blocks());
    if (!op.in.slots.data) return;
    if (changed) store_state(block, state, stored());
    const int last = span.blocks() - 1;
    if (span.piece(last).present < kBlock) store_tail(span.piece(last), last % Block::kStages);
  }

  // The open block's rows of this call; those before lie there. k's by the thread block that all have read it before.
  __device__ void store_tail(const Piece& piece, int stage) const {
    const bool stores_k = part == (alone() ? Block::kParts - 1 : 0);
    constexpr int kAcross = Block::kWidth / kVector<T>;
    for (int i = int(threadIdx.x); i < kBlock * kAcross; i += Block::kThreads) {
      const int row = i / kAcross, column = i % kAcross * kVector<T>;
      if (!piece.has(row)) continue;
      if (stores_k && column < columns)
        copy(&op.in.tail(slot, head, 0, row, column), block.keys(stage).at(row, column));
      if (column < Block::kValues && column < value_columns)
        copy(&op.in.tail(slot, head, 1, row, column0 + column), block.values(stage).at(row, column));
    }
  }
  __device__ static void copy(T* to, const T* from) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
  }
};

template <class Block>
__global__ void __launch_bounds__(Block::kThreads, Block::kPerProcessor)
    lightning_forward(const __grid_constant__ LightningForward<typename Block::T> op) {
  using Call = ForwardCall<Block>;
  unsigned char* const shared = dynamic_shared();
  const int64_t item = op.ranks.item(), heads = op.o.shape[1];
  const int64_t sequence = item / heads, head = item % heads;
  const Span span = op.in.span(sequence);
  if (span.begin == span.end) return;
  const Block block(shared, op.in.decay(head));
  Call call{op,
            block,
            *reinterpret_cast<typename Call::Squares*>(shared + Block::kBytes),
            op.in.slots.data ? op.in.slots(sequence) : 0,
            head,
            op.ranks.rank(),
            span};
  walk(block, call);
}

// kWidth: the head size or the next larger one that has a kernel. kValues: columns of a thread block.
template <class T, int kWidth, int kValues>
void launch_lightning_forward(Stream& stream, const LightningAttention& op) {
  using Block = LightningBlock<T, kWidth, kValues, false>;
  expect_vectors(op.o);
  const LightningForward<T> argument{
      lightning_inputs<T>(op), view_of<T, 3>(op.o), view_of<float, 2>(op.squares), {Block::kParts}};
  const int64_t items = (op.row_begin.dim(0) - 1) * op.o.dim(1);
  launch_walks<Block>(stream, "lightning_attention", lightning_forward<Block>, argument, items,
                      sizeof(typename ForwardCall<Block>::Squares));
}

}  // namespace fulgur::cuda
