// The launch of ops/cuda/few_outputs.cuh.
#include "ops/cuda/few_outputs.cuh"
#include "ops/cuda/product_kernels.h"

namespace fulgur::cuda {
namespace {

template <int kTiles>
void launch_tiles(Stream& stream, const char* name, const few_outputs::Gradients& gradients) {
  const auto kernel = few_outputs::compute_gradients<kTiles>;
  Grid grid = grid_of(gradients.weight_blocks + gradients.input_blocks, dim3(kThreads));
  grid.shared_bytes = sizeof(few_outputs::Shared<kTiles>);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared_bytes)),
        "cudaFuncSetAttribute");
  launch(stream, name, grid, kernel, gradients);
}

}  // namespace

bool multiply_few_outputs(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                          const Factors<bf16, bf16, float>& dw) {
  const int64_t rows = dx.m, out = dx.k, in = dx.n;
  const bool by_rows = dx.a.column == 1 && dx.b.column == 1 && dw.b.column == 1;
  if (dx.groups.begin || out > few_outputs::kMostOutputs || out % kChunk != 0 || !by_rows || !dw.adds) return false;
  const few_outputs::Gradients gradients{
      .dx = {dx.c.data, rows, in, dx.c.row},
      .dw = {dw.c.data, out, in, dw.c.row},
      .dy = {dx.a.data, rows, out, dx.a.row},
      .x = {dw.b.data, rows, in, dw.b.row},
      .w = {dx.b.data, out, in, dx.b.row},
      .adds = dx.adds,
      .weight_blocks = divide_up(in, few_outputs::kColumns),
      .input_blocks = divide_up(rows, few_outputs::kBlockRows) * divide_up(in, few_outputs::kBlockColumns)};
  if (out <= few_outputs::kStep) launch_tiles<1>(stream, name, gradients);
  else launch_tiles<2>(stream, name, gradients);
  return true;
}

}  // namespace fulgur::cuda
