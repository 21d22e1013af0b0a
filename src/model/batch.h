// Batch: rows of tokens from several sequences, laid end to end. Decode is many sequences of one row, prefill a few of
// many rows, training packed documents without state: one shape, one forward().
#pragma once
#include <span>

#include "base/tensor.h"

namespace fulgur {

struct Batch {
  Tensor tokens;          // i32 [rows]
  Tensor positions;       // i64 [rows], counted from its sequence's first token
  Tensor row_begin;       // i32 [sequences + 1]: sequence i owns rows [row_begin[i], row_begin[i + 1])
  Tensor head_rows = {};  // i32 [outputs]: rows whose hidden vector is wanted; absent, as in training: all
  int64_t longest = 0;    // rows of the longest sequence; the host's only knowledge of row_begin

  // What is remembered of earlier rows. All absent when every sequence begins with this batch, as in training.
  Tensor slots = {};                   // i32 [sequences], into state and tail
  Tensor page_table = {};              // i32 [sequences, pages], into kv_pages; a page ends where the grid does
  std::span<const Tensor> state = {};  // per layer, wide [slots, heads, head_dim, head_dim]; empty for softmax layers
  std::span<const Tensor> tail = {};   // per layer, [slots, heads, 2, 64, head_dim]; empty for softmax layers
  std::span<const Tensor> kv_pages = {};  // per layer, [pages, 2, kv_heads, 64, head_dim]; empty for lightning layers

  // Who was routed where, when somebody wants to know, or has decided it already. Absent otherwise.
  enum class Routing : uint8_t { own, recorded, imposed } routing = Routing::own;
  std::span<const Tensor> experts = {};  // per layer, i32 [rows, experts_per_token]: written, or read where imposed
  std::span<const Tensor> weights = {};  // per layer, wide [rows, experts_per_token]

  // How training counts its routers' choices: in windows of consecutive rows, of which an expert takes at most
  // `capacity` choices. Inference and evaluation have neither, and drop nothing.
  int64_t window = 0;    // rows; divides the rows; 0: no windows
  int64_t capacity = 0;  // 0: all choices (ops/group_rows.h)
  Tensor choices = {};   // i32 [layers, windows, experts], written by every layer: the dropped ones included

  int64_t rows() const { return tokens.dim(0); }
  int64_t sequences() const { return row_begin.dim(0) - 1; }
  int64_t outputs() const { return head_rows ? head_rows.dim(0) : rows(); }
};

}  // namespace fulgur
