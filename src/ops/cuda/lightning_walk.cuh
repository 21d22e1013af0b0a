// The walk from block to block that lightning attention's forward and backward share (ops/cuda/lightning_block.cuh).
#pragma once
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/lightning_block.cuh"

namespace fulgur::cuda {

// Where S lies in global memory: element (row, column) of the thread block's columns, or transposed.
struct StoredState {
  float* data;
  int64_t stride;
  bool transposed;
  int rows, columns;  // that exist
  __device__ float* at(int row, int column) const {
    return data + (transposed ? column * stride + row : row * stride + column);
  }
};

template <class Block>
__device__ __forceinline__ void load_state(const Block& block, typename Block::State& state, const StoredState& from) {
  for_pairs(state, [&](int row, int column, float& x, float& y) {
    const int r = block.state_row0 + row, c = block.state_column0 + column;
    if (r >= from.rows || c >= from.columns) return;
    const float2 pair = from.transposed ? float2{*from.at(r, c), *from.at(r, c + 1)} : load_pair(from.at(r, c));
    x = pair.x, y = pair.y;
  });
}

// Not transposed.
template <class Block>
__device__ __forceinline__ void store_state(const Block& block, typename Block::State& state, const StoredState& to) {
  for_pairs(state, [&](int row, int column, float x, float y) {
    const int r = block.state_row0 + row, c = block.state_column0 + column;
    if (r < to.rows && c < to.columns) store_pair(to.at(r, c), x, y);
  });
}

// Call: the caller's side of a walk.
//   span, parts             the sequence's rows; columns, value_columns: how many exist
//   together()              its cluster waits for all to have read what was there before any of it is replaced
//   begins_with()           S at the walk's start, data null where it is zero
//   wants(row, piece)       whether any of 16 rows is to be computed
//   begin(sums, piece)      sums that S does not enter; they are zero
//   begin_block(n)          after the first barrier of the walk's n-th block
//   store(sums, piece, n)   the result of a warp's rows
//   end_block()             after the last store
//   closes(piece, last)     whether the block enters S
//   finish(state, changed)  after the last block
template <class Block, class Call>
__device__ __forceinline__ void walk(const Block& block, Call& call) {
  constexpr bool kBackward = Block::kBackward;
  typename Block::State state = {};
  const StoredState start = call.begins_with();
  bool known = start.data != nullptr, changed = false;  // S not known is zero, and costs nothing
  if (known) load_state(block, state, start), block.enter(state);

  const int blocks = call.span.blocks();
  const auto piece_of = [&](int n) { return call.span.piece(kBackward ? blocks - 1 - n : n); };
  const auto fetch = [&](int n) {
    block.fetch(n % Block::kStages, call.parts, piece_of(n), call.columns, call.value_columns);
  };
  fetch(0);
  for (int n = 0; n < blocks; ++n) {
    const Piece piece = piece_of(n);
    const int stage = n % Block::kStages;
    const bool last = n + 1 == blocks, whole = piece.present == kBlock;
    wait_for_copies();
    block.pass_silu(stage, call.parts, piece);
    if (n == 0 && call.together()) cluster_arrive(), cluster_wait();
    __syncthreads();  // rows, powers and S are there, and the other stage is free
    call.begin_block(n);
    if (Block::kStages == 2 && !last) fetch(n + 1);

    const bool active = call.wants(block.row0, piece);  // some of the warp's 16 rows
    typename Block::BlockSums sums = {};
    typename Block::Scores scores = {};
    if (active) {
      if (known && (!kBackward || whole)) block.multiply_state(sums, stage);
      else call.begin(sums, piece);
      block.multiply_keys(scores, stage);
    }
    const bool closes = call.closes(piece, last);
    __syncthreads();  // queries and keys have been read
    if (active) block.store_scores(scores, stage);
    if (closes && call.parts.ages_keys) block.age(stage, true);
    __syncthreads();
    if (active) {
      block.multiply_values(sums, stage);
      call.store(sums, piece, n);
    }
    call.end_block();
    if (closes) {
      if (!call.parts.ages_keys) {
        __syncthreads();  // values have been read
        block.age(stage, false);
        __syncthreads();
      }
      block.add_block(state, known && whole, stage);
      block.enter(state);
      known = changed = true;
    }
    if (Block::kStages == 1 && !last) {
      __syncthreads();
      fetch(n + 1);
    }
  }
  call.finish(state, changed);
}

}  // namespace fulgur::cuda
