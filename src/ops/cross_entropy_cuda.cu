// A row is read once where it fits into its threads' registers: 32 warps, in two thread blocks that share a cluster
// where there are clusters, so that a processor reads one row while it computes another. Of a wider row what does not
// fit is read again for the gradient. The order of every sum depends on the width alone; rows' losses are added in the
// order of rows.
#include "ops/cross_entropy.h"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/ordered_sum.cuh"
#include "ops/cuda/row_cluster.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kRowWarps = 32, kKept = 4;  // chunks that a thread keeps
constexpr int kStep = kRowWarps * 32 * kChunk;

// The sum of exp(x - greatest).
struct Exponentials {
  float greatest, sum;
  __device__ void join(const Exponentials& other) {
    const float most = fmaxf(greatest, other.greatest);
    // -infinity - -infinity is no number; of a sum of nothing nothing is left.
    sum = (sum == 0 ? 0 : sum * expf(greatest - most)) + (other.sum == 0 ? 0 : other.sum * expf(other.greatest - most));
    greatest = most;
  }
  __device__ void add(const float (&x)[kChunk], int left) {
    float most = greatest;
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < left) most = fmaxf(most, x[i]);
    if (most == -INFINITY) return;
    float added = sum == 0 ? 0 : sum * expf(greatest - most);
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < left) added += expf(x[i] - most);
    greatest = most, sum = added;
  }

  __device__ uint64_t packed() const { return uint64_t(__float_as_uint(greatest)) << 32 | __float_as_uint(sum); }
  __device__ static Exponentials unpacked(uint64_t both) {
    return {__uint_as_float(uint32_t(both >> 32)), __uint_as_float(uint32_t(both))};
  }
};

// Of all threads of a row, in all of them.
template <int kWarps>
__device__ Exponentials joined(RowCluster<kWarps>& cluster, const Exponentials& mine) {
  const auto join = [](uint64_t a, uint64_t b) {
    Exponentials all = Exponentials::unpacked(a);
    all.join(Exponentials::unpacked(b));
    return all.packed();
  };
  return Exponentials::unpacked(cluster.joined(mine.packed(), Exponentials{-INFINITY, 0}.packed(), join));
}

// What a row's logits become.
struct Slopes {
  float greatest, factor, own;  // of the target: own
  int32_t target;               // -1: zeros
  __device__ void take_place_of(float (&x)[kChunk], int first) const {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float power = target == -1 ? 0 : expf(x[i] - greatest);
      x[i] = first + i == target ? own : power * factor;
    }
  }
};
// Also the row's loss.
__device__ Slopes slopes_of(const Exponentials& all, int32_t target, float own, double scale, double& loss) {
  const double sum = all.sum, greatest = all.greatest;
  loss = scale * (log(sum) + (greatest - double(own)));
  const float slope = float((double(expf(own - all.greatest)) / sum - 1) * scale);
  return {all.greatest, float(scale / sum), slope, target};
}

template <int kWarps, bool kAligned, class G>
__global__ void __launch_bounds__(kWarps * 32, kRowWarps / kWarps)
    finish(double* losses, Rows<G> gradient, Rows<const float> logits, const int32_t* targets, const double* scales) {
  constexpr int kBlocks = kRowWarps / kWarps;
  RowCluster<kWarps> cluster(*reinterpret_cast<typename RowCluster<kWarps>::Places*>(dynamic_shared()), kBlocks);
  const int64_t row = block_index() / kBlocks;
  const int width = int(logits.width), begin = (cluster.rank() * kWarps * 32 + int(threadIdx.x)) * kChunk;
  cluster.begin();
  if (row >= logits.count) return;
  const float* const x = logits[row];
  G* const y = gradient[row];
  const int32_t target = targets[row];
  float kept[kKept][kChunk];
  Slopes slopes{0, 0, 0, target};
  double loss = 0;
  if (target != -1) {
    const float own = target >= 0 && target < width ? x[target] : nanf("");  // no token makes the loss NaN
#pragma unroll
    for (int a = 0; a < kKept; ++a) load<kAligned>(kept[a], x + begin + a * kStep, width - begin - a * kStep);
    Exponentials all{-INFINITY, 0};
#pragma unroll
    for (int a = 0; a < kKept; ++a) all.add(kept[a], width - begin - a * kStep);
    for (int c = begin + kKept * kStep; c < width; c += kStep) {
      float more[kChunk];
      load<kAligned>(more, x + c, width - c);
      all.add(more, width - c);
    }
    all = joined(cluster, all);  // all have read what the gradient may take the place of
    slopes = slopes_of(all, target, own, *scales, loss);
  }
#pragma unroll
  for (int a = 0; a < kKept; ++a) {
    slopes.take_place_of(kept[a], begin + a * kStep);
    store<kAligned>(y + begin + a * kStep, kept[a], width - begin - a * kStep);
  }
  for (int c = begin + kKept * kStep; c < width; c += kStep) {
    float more[kChunk];
    load<kAligned>(more, x + c, width - c);
    slopes.take_place_of(more, c);
    store<kAligned>(y + c, more, width - c);
  }
  if (begin == 0) losses[row] = loss;
}

template <int kWarps, class G>
void finish_rows(Stream& stream, const CrossEntropy& op, const Rows<G>& gradient, double* losses) {
  constexpr int kBlocks = kRowWarps / kWarps;
  const Rows<const float> logits = rows_of<const float>(op.logits);
  if (logits.count == 0) return;
  Grid grid = grid_of(logits.count * kBlocks, dim3(kWarps * 32));
  grid.cluster = kBlocks, grid.shared_bytes = sizeof(typename RowCluster<kWarps>::Places);
  with_flag(aligned(op.logits, op.gradient ? op.gradient : op.logits), [&]<bool kAligned>() {
    launch(stream, "cross_entropy", grid, finish<kWarps, kAligned, G>, losses, gradient, logits,
           op.targets.elements<int32_t>(), op.scale.elements<double>());
  });
}

struct Loss {
  const double* losses;
  __device__ double operator()(int64_t row) const { return losses[row]; }
};

}  // namespace

void cross_entropy(Stream& stream, const CrossEntropy& op) {
  const Tensor to = op.gradient ? op.gradient : op.logits;
  const int64_t rows = op.logits.dim(0);
  with_cuda_type(to.dtype, [&]<class G>() {
    const Scratch losses(stream, size_t(rows + 1) * sizeof(double));
    if (has_clusters()) finish_rows<kRowWarps / 2>(stream, op, rows_of<G>(to), losses.as<double>());
    else finish_rows<kRowWarps>(stream, op, rows_of<G>(to), losses.as<double>());
    add_over_rows(stream, "cross_entropy", op.loss.elements<double>(), rows, Loss{losses.as<double>()});
  });
}

}  // namespace fulgur::cuda
