// With s = sigmoid(gate), r = inverse rms and N = the whole width: y = ((x * r) * weight) * s, and backward
//   dx = r * (dy * s * weight) - x * r^3 * sum(products) / N,   dgate = p - p * s with p = dy * s * (x * r) * weight,
//   dweight += dy * s * x * r.
// With the sums over heads given, no column needs another one: a thread takes one chunk of columns down some rows.
#include "ops/cuda/gated_norm.cuh"
#include "ops/cuda/piece_sums.cuh"
#include "ops/gated_rms_norm.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kFewRows = 256;  // so many rows and fewer are a block each
constexpr int kHeadsAtOnce = 64;   // whose sums are fetched together

// sums[r] = the sum of row first + r over the heads, in head order, for kRows <= 32 rows; in shared memory.
template <int kRows>
__device__ void sum_heads(float (&sums)[kRows], Rows<const float> heads, int64_t first) {
  __shared__ float tile[kHeadsAtOnce][kRows];
  const int r = int(threadIdx.x);
  float sum = 0;
  for (int64_t head = 0; head < heads.count; head += kHeadsAtOnce) {
    const int here = int(heads.count - head < kHeadsAtOnce ? heads.count - head : kHeadsAtOnce);
    for (int i = int(threadIdx.x); i < here * kRows; i += int(blockDim.x))
      if (first + i % kRows < heads.width) tile[i / kRows][i % kRows] = heads[head + i / kRows][first + i % kRows];
    __syncthreads();
    if (r < kRows && first + r < heads.width)
      for (int i = 0; i < here; ++i) sum += tile[i][r];
    __syncthreads();
  }
  if (r < kRows) sums[r] = sum;
  __syncthreads();
}

// The blocks of rows by columns: those beside each other take neighbouring columns of the same rows.
struct Tiles {
  int64_t across, blocks;
  dim3 threads;
  Tiles(int64_t rows, int64_t width, int64_t rows_of_block) {
    const int64_t chunks = divide_up(width, kChunk);
    threads = dim3(unsigned(chunks < kThreads ? divide_up(chunks, 32) * 32 : kThreads));
    across = divide_up(chunks, threads.x), blocks = across * divide_up(rows, rows_of_block);
  }
};

template <int kRows, bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    forward(Rows<T> y, Rows<const T> x, Rows<const T> gate, const T* weight, Rows<const float> squares,
            float whole_width, float eps, float* inverse_rms, int64_t across) {
  follow();
  __shared__ float sums[kRows];
  const int64_t first = block_index() / across * kRows, width = x.width;
  if (first >= x.count) return;
  sum_heads(sums, squares, first);
  const int64_t c = (block_index() % across * blockDim.x + threadIdx.x) * kChunk, left = width - c;
  float w[kChunk];
  load<kAligned>(w, weight + c, left);
#pragma unroll 2
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first + r;
    if (row >= x.count) break;
    const float inverse = inverse_rms_of(sums[r], whole_width, eps);
    if (inverse_rms && c == 0) inverse_rms[row] = inverse;
    float v[kChunk], open[kChunk];
    load<kAligned>(v, x[row] + c, left);
    load<kAligned>(open, gate[row] + c, left);
    gate_and_norm(v, inverse, w, open);
    store<kAligned>(y[row] + c, v, left);
  }
}

// kLanes threads add up one head of kRowsEach rows; a block takes kThreads / kLanes times as many rows of one head.
constexpr int kRowsEach = 2;
template <int kLanes, bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    multiply(Rows<float> products, Rows<const T> dy, Rows<const T> x, Rows<const T> gate, const T* weight) {
  constexpr int kTeams = kThreads / kLanes;
  const int64_t heads = products.count, head = block_index() % heads, head_width = x.width / heads;
  const int64_t first = block_index() / heads * (kTeams * kRowsEach) + threadIdx.x / kLanes;
  const int lane = int(threadIdx.x % kLanes);
  float sums[kRowsEach] = {};
  for (int64_t c = lane * kChunk; c < head_width; c += kLanes * kChunk) {
    const int64_t at = head * head_width + c, left = head_width - c;
    Chunk<T> flows[kRowsEach], opens[kRowsEach], ins[kRowsEach];
#pragma unroll
    for (int r = 0; r < kRowsEach; ++r) {
      const int64_t row = first + r * kTeams < x.count ? first + r * kTeams : x.count - 1;
      flows[r] = fetch<kAligned>(dy[row] + at, left), opens[r] = fetch<kAligned>(gate[row] + at, left);
      ins[r] = fetch<kAligned>(x[row] + at, left);
    }
    float w[kChunk];
    load<kAligned>(w, weight + at, left);
#pragma unroll
    for (int r = 0; r < kRowsEach; ++r) {
      float flow[kChunk], open[kChunk], in[kChunk];
      unpack(flow, flows[r]), unpack(open, opens[r]), unpack(in, ins[r]);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sums[r] += flow[i] * sigmoid(open[i]) * w[i] * in[i];
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsEach; ++r) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sums[r] += __shfl_xor_sync(kAllLanes, sums[r], step);
    if (lane == 0 && first + r * kTeams < x.count) products[head][first + r * kTeams] = sums[r];
  }
}

template <class T>
struct Gradient {
  Rows<T> dx, dgate;
  Rows<const T> dy, x, gate;
  const T* weight;
  const float* inverse_rms;
  Rows<const float> products;
  float whole_width;
  float* partial;  // [pieces, pitch]
  int64_t pitch, across;
};

// A block takes the rows of one piece.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, 4) backward(Gradient<T> g) {
  __shared__ float sums[kPieceRows], inverses[kPieceRows], pulls[kPieceRows];
  const int64_t piece = block_index() / g.across, first = piece * kPieceRows, width = g.x.width;
  if (first >= g.x.count) return;
  sum_heads(sums, g.products, first);
  if (const int r = int(threadIdx.x); r < kPieceRows && first + r < g.x.count) {
    const float inverse = g.inverse_rms[first + r];
    inverses[r] = inverse, pulls[r] = sums[r] / g.whole_width * inverse * inverse * inverse;
  }
  __syncthreads();
  const int64_t c = (block_index() % g.across * blockDim.x + threadIdx.x) * kChunk, left = width - c;
  if (left <= 0) return;
  float weight[kChunk], total[kChunk] = {};
  load<kAligned>(weight, g.weight + c, left);
  Chunk<T> flows, opens, ins;  // of the next row
  const auto fetch_row = [&](int64_t row) {
    flows = fetch<kAligned>(g.dy[row] + c, left), opens = fetch<kAligned>(g.gate[row] + c, left);
    ins = fetch<kAligned>(g.x[row] + c, left);
  };
  fetch_row(first);
  for (int r = 0; r < kPieceRows; ++r) {
    const int64_t row = first + r;
    if (row >= g.x.count) break;
    float flow[kChunk], open[kChunk], in[kChunk];
    unpack(flow, flows), unpack(open, opens), unpack(in, ins);
    if (r + 1 < kPieceRows && row + 1 < g.x.count) fetch_row(row + 1);
    const float inverse = inverses[r], pull = pulls[r];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float s = sigmoid(open[i]), passed = flow[i] * s;
      const float product = passed * (inverse * in[i]), gated = product * weight[i];
      total[i] += product;
      open[i] = gated - gated * s;
      in[i] = inverse * (passed * weight[i]) + -pull * in[i];
    }
    store<kAligned>(g.dgate[row] + c, open, left);
    store<kAligned>(g.dx[row] + c, in, left);
  }
  store<true>(g.partial + piece * g.pitch + c, total, kChunk);
}

template <class T>
const T* weight_of(const Tensor& weight) {
  return weight.elements<T>();
}

template <int kRows, class T>
void norm(Stream& stream, const GatedRmsNorm& op) {
  const Tiles tiles(op.x.dim(0), op.x.dim(1), kRows);
  with_flag(aligned(op.y, op.x, op.gate, op.weight), [&]<bool kAligned>() {
    launch_following(stream, "gated_rms_norm", tiles.blocks, tiles.threads, forward<kRows, kAligned, T>,
                     rows_of<T>(op.y), rows_of<const T>(op.x), rows_of<const T>(op.gate), weight_of<T>(op.weight),
                     rows_of<const float>(op.squares), float(op.whole_width), float(op.eps),
                     op.inverse_rms ? op.inverse_rms.elements<float>() : nullptr, tiles.across);
  });
}

template <class T>
void multiply_heads(Stream& stream, const GatedRmsNormProducts& op) {
  const int64_t heads = op.products.dim(0), head_width = op.x.dim(1) / heads;
  const bool fits = aligned(op.dy, op.x, op.gate, op.weight) && head_width % kChunk == 0;
  const auto run = [&]<int kLanes>() {
    with_flag(fits, [&]<bool kAligned>() {
      launch_blocks(stream, "gated_rms_norm_products", heads * divide_up(op.x.dim(0), kThreads / kLanes * kRowsEach),
                    dim3(kThreads), multiply<kLanes, kAligned, T>, rows_of<float>(op.products), rows_of<const T>(op.dy),
                    rows_of<const T>(op.x), rows_of<const T>(op.gate), weight_of<T>(op.weight));
    });
  };
  if (head_width <= 8 * kChunk) run.template operator()<8>();
  else if (head_width <= 16 * kChunk) run.template operator()<16>();
  else run.template operator()<32>();
}

template <class T>
void differentiate(Stream& stream, const GatedRmsNormBackward& op) {
  const int64_t width = op.x.dim(1);
  const Tiles tiles(op.x.dim(0), width, kPieceRows);
  const PieceSums sums(stream, op.x.dim(0), width);
  const Gradient<T> g{.dx = rows_of<T>(op.dx),
                      .dgate = rows_of<T>(op.dgate),
                      .dy = rows_of<const T>(op.dy),
                      .x = rows_of<const T>(op.x),
                      .gate = rows_of<const T>(op.gate),
                      .weight = weight_of<T>(op.weight),
                      .inverse_rms = op.inverse_rms.elements<float>(),
                      .products = rows_of<const float>(op.products),
                      .whole_width = float(op.whole_width),
                      .partial = sums.data(),
                      .pitch = sums.pitch,
                      .across = tiles.across};
  with_flag(aligned(op.dx, op.dgate, op.dy, op.x, op.gate, op.weight), [&]<bool kAligned>() {
    launch_blocks(stream, "gated_rms_norm_backward", tiles.blocks, tiles.threads, backward<kAligned, T>, g);
  });
  sums.add_to(stream, "gated_rms_norm_backward", op.dweight.elements<float>(), width);
}

}  // namespace

void gated_rms_norm(Stream& stream, const GatedRmsNorm& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    if (op.x.dim(0) <= kFewRows) norm<1, T>(stream, op);
    else norm<8, T>(stream, op);
  });
}

void gated_rms_norm_products(Stream& stream, const GatedRmsNormProducts& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() { multiply_heads<T>(stream, op); });
}

void gated_rms_norm_backward(Stream& stream, const GatedRmsNormBackward& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() { differentiate<T>(stream, op); });
}

}  // namespace fulgur::cuda
