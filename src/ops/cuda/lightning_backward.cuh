// Lightning attention's gradients: dq by a walk forward in time, dk and dv by two walks backward in time.
#pragma once
#include "ops/cuda/lightning_operands.cuh"

namespace fulgur::cuda {

template <class T>
struct LightningBackward {
  LightningInputs<T> in;
  View<T, 4> dqkv;
  View<const T, 3> d_o;
  View<float, 4> d_state;
  View<float, 5> d_tail;
  Ranks ranks;

  __device__ Rows<T> d_rows(int64_t head, int column) const {
    return {&d_o(0, head, column), d_o.stride[0], nullptr, 0, false};
  }
};

// Where a thread block stands: one sequence and head, one share of columns.
struct Place {
  int64_t slot, head;
  int column0;
  Span span;
};

// What the gradients of q, k and v (parts 0, 1, 2) have in common.
template <class Block>
struct GradientCall {
  using T = typename Block::T;
  using BlockSums = typename Block::BlockSums;

  const LightningBackward<T>& op;
  const Block& block;
  const Place place;
  const Span span = place.span;
  const int columns = op.in.columns(), column0 = place.column0, value_columns = columns - column0;

  __device__ void begin_block(int) const {}
  __device__ void end_block() const {}

  // The thread block's columns of q, k or v before SiLU, and of their gradients.
  __device__ HeadRows<const T> raw(int part) const {
    return {&op.in.qkv(0, place.head, part, column0), op.in.qkv.stride[0]};
  }
  __device__ HeadRows<T> gradient(int part) const {
    return {&op.dqkv(0, place.head, part, column0), op.dqkv.stride[0]};
  }
  // From the gradient of what SiLU gave to that of what it took.
  __device__ static void store_through_silu(T* to, const T* from, float x, float y) {
    const float2 raw = load_pair(from);
    store_pair(to, __fmul_rn(x, silu_slope<T>(raw.x)), __fmul_rn(y, silu_slope<T>(raw.y)));
  }
};

template <class Block>
struct QueryCall : GradientCall<Block> {
  using Base = GradientCall<Block>;
  using T = typename Block::T;
  using BlockSums = typename Block::BlockSums;
  using Base::block;
  using Base::column0;
  using Base::op;
  using Base::place;
  using Base::value_columns;
  __device__ bool together() const { return false; }
  const Parts<T> parts{op.d_rows(place.head, 0), op.in.rows(place.slot, place.head, 2, 0),
                       op.in.rows(place.slot, place.head, 1, column0), false};

  __device__ StoredState begins_with() const {
    return op.in.stored(op.in.state, place.slot, place.head, column0, true);
  }
  __device__ bool wants(int row0, const Piece& piece) const { return row0 < piece.present && row0 + 16 > piece.held; }
  __device__ void begin(BlockSums&, const Piece&) const {}
  __device__ bool closes(const Piece&, bool last) const { return !last; }
  __device__ __forceinline__ void store(BlockSums& sums, const Piece& piece, int) const {
    const HeadRows<const T> raw = Base::raw(0);
    const HeadRows<T> to = Base::gradient(0);
    for_pairs(sums, [&](int row, int column, float x, float y) {
      const int r = block.row0 + row, c = block.sum_column0 + column;
      if (piece.has(r) && c < value_columns)
        Base::store_through_silu(to.at(piece.first + r, c), raw.at(piece.first + r, c), x, y);
    });
  }
  __device__ void finish(typename Block::State&, bool) const {}
};

// Of k (kPart 1) or v (kPart 2). The slot's d_state is read by the walks of both and replaced by v's.
template <class Block, int kPart>
struct KeyValueCall : GradientCall<Block> {
  using Base = GradientCall<Block>;
  using T = typename Block::T;
  using BlockSums = typename Block::BlockSums;
  using Base::block;
  using Base::column0;
  using Base::op;
  using Base::place;
  using Base::value_columns;
  static constexpr bool kOfKeys = kPart == 1;
  const Parts<T> parts{op.in.rows(place.slot, place.head, kOfKeys ? 2 : 1, 0),
                       kOfKeys ? op.d_rows(place.head, 0) : op.in.rows(place.slot, place.head, 0, 0),
                       kOfKeys ? op.in.rows(place.slot, place.head, 0, column0) : op.d_rows(place.head, column0),
                       !kOfKeys};

  __device__ StoredState stored() const { return op.in.stored(op.d_state, place.slot, place.head, column0, kOfKeys); }
  __device__ bool together() const { return op.ranks.together(); }
  __device__ StoredState begins_with() const { return stored(); }
  __device__ HeadRows<float> d_tail() const {
    return {op.d_tail.data ? &op.d_tail(place.slot, place.head, kPart - 1, 0, column0) : nullptr, op.d_tail.stride[3]};
  }

  __device__ bool wants(int row0, const Piece& piece) const { return row0 < piece.present; }
  // An open block is in no state yet: its gradients begin with the tail's.
  __device__ __forceinline__ void begin(BlockSums& sums, const Piece& piece) const {
    if (!op.d_tail.data || piece.present == kBlock) return;
    const HeadRows<float> tail = d_tail();
    for_pairs(sums, [&](int row, int column, float& x, float& y) {
      const int r = block.row0 + row, c = block.sum_column0 + column;
      if (r >= piece.present || c >= value_columns) return;
      const float2 pair = load_pair(tail.at(r, c));
      x = pair.x, y = pair.y;
    });
  }
  __device__ bool closes(const Piece&, bool last) const { return op.in.slots.data || !last; }
  __device__ __forceinline__ void store(BlockSums& sums, const Piece& piece, int) const {
    const HeadRows<const T> raw = Base::raw(kPart);
    const HeadRows<T> to = Base::gradient(kPart);
    const HeadRows<float> tail = d_tail();
    for_pairs(sums, [&](int row, int column, float x, float y) {
      const int r = block.row0 + row, c = block.sum_column0 + column;
      if (r >= piece.present || c >= value_columns) return;
      if (r >= piece.held) Base::store_through_silu(to.at(piece.first + r, c), raw.at(piece.first + r, c), x, y);
      else store_pair(tail.at(r, c), x, y);
    });
  }
  __device__ __forceinline__ void finish(typename Block::State& state, bool) const {
    if (!kOfKeys && op.d_state.data) store_state(block, state, stored());
  }
};

template <class T>
__device__ Place place_of(const LightningBackward<T>& op, int64_t item, int column0) {
  const int64_t heads = op.d_o.shape[1], sequence = item / heads;
  return {op.in.slots.data ? op.in.slots(sequence) : 0, item % heads, column0, op.in.span(sequence)};
}

template <class Block>
__global__ void __launch_bounds__(Block::kThreads, Block::kPerProcessor)
    lightning_query_gradient(const __grid_constant__ LightningBackward<typename Block::T> op) {
  unsigned char* const shared = dynamic_shared();
  const Place place = place_of(op, op.ranks.item(), op.ranks.rank() * Block::kValues);
  if (place.span.begin == place.span.end) return;
  const Block block(shared, op.in.decay(place.head));
  QueryCall<Block> call{{op, block, place}};
  walk(block, call);
}

// A cluster walks for the gradients of both k and v: those of k first, who only read what those of v replace.
template <class Block>
__global__ void __launch_bounds__(Block::kThreads, Block::kPerProcessor)
    lightning_key_value_gradient(const __grid_constant__ LightningBackward<typename Block::T> op) {
  unsigned char* const shared = dynamic_shared();
  const int rank = op.ranks.rank();
  const Place place = place_of(op, op.ranks.item(), rank % Block::kParts * Block::kValues);
  if (place.span.begin == place.span.end) return;
  const Block block(shared, op.in.decay(place.head));
  if (rank < Block::kParts) {
    KeyValueCall<Block, 1> call{{op, block, place}};
    walk(block, call);
  } else {
    KeyValueCall<Block, 2> call{{op, block, place}};
    walk(block, call);
  }
}

// kWidth, kValues: as in launch_lightning_forward.
template <class T, int kWidth, int kValues>
void launch_lightning_backward(Stream& stream, const LightningAttentionBackward& op) {
  expect_vectors(op.d_o, op.dqkv, op.d_state, op.d_tail);
  LightningBackward<T> argument{lightning_inputs<T>(op),      view_of<T, 4>(op.dqkv),
                                view_of<const T, 3>(op.d_o),  view_of<float, 4>(op.d_state),
                                view_of<float, 5>(op.d_tail), {kWidth / kValues}};
  const int64_t items = (op.row_begin.dim(0) - 1) * op.d_o.dim(1);
  using Ascending = LightningBlock<T, kWidth, kValues, false>;
  launch_walks<Ascending>(stream, "lightning_attention_backward: dq", lightning_query_gradient<Ascending>, argument,
                          items);
  argument.ranks.count *= 2;
  using Descending = LightningBlock<T, kWidth, kValues, true>;
  launch_walks<Descending>(stream, "lightning_attention_backward: dk, dv", lightning_key_value_gradient<Descending>,
                           argument, items);
}

}  // namespace fulgur::cuda
