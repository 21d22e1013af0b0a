#include "ops/cpu/gemm_bf16.h"

#include "ops/cpu/bf16_tile_run.h"
#include "ops/cpu/bf16_tiles.h"
#include "ops/cpu/bf16_widened.h"
#include "ops/cpu/gemm_tiling.h"

namespace fulgur::cpu {
namespace {

// Long sums of a bf16 output spill as f32 and are rounded at the end.
void round_at_end(const Bf16Kernel& kernel, const Bf16Product& p) {
  float* const sums = workspace().sums.reserve<float>(p.m * p.n);
  Bf16Product wide = p;
  wide.c = {sums, DType::f32, p.n};
  for (int64_t i = 0; p.store == Store::add && i < p.m; ++i) load_line(sums + i * p.n, p.c, i, 0, p.n);
  TileRun(kernel, wide).run();
  for (int64_t i = 0; i < p.m; ++i) store_line(sums + i * p.n, p.c, i, 0, p.n);
}

constexpr int64_t kFewMost = 16, kFewColumns = 32, kFewBlock = 32;

constexpr int64_t kTurnedRows = 256;  // up to so many, packing weights costs more than turning sums over

// Some rows and many weights, which lie k by k: c's transpose has the weights on the left, read as they lie, and the
// rows are packed instead. What a sum adds and in which order is the same.
bool is_better_turned(const Bf16Kernel& kernel, const Bf16Product& p) {
  return kernel.reads_rows && p.m <= kTurnedRows && p.n > kTurnedRows && p.b.row_stride == 1 &&
         p.b.dtype == DType::bf16 && p.cut_count == 0 && p.k % kernel.step == 0;
}
Bf16Product turned(const Bf16Product& p) {
  Bf16Product other = p;
  other.a = p.b.transposed(), other.b = p.a.transposed(), other.m = p.n, other.n = p.m;
  return other;
}

bool reads_as_it_lies(const Bf16Kernel& kernel, const Bf16Product& p) {
  return p.m <= kernel.few && p.b.row_stride == 1 && p.b.dtype == DType::bf16 && p.cut_count == 0;
}

// Few rows: b is read as it lies, which a decode step needs, and no element is read twice.
void multiply_few(const Bf16Kernel& kernel, const Bf16Product& p) {
  Workspace& space = workspace();
  const int64_t packed = rounded_up(p.k, kFewBlock), stride = p.b.column_stride;
  auto* const x = space.columns.reserve<uint16_t>(kFewMost * packed);
  auto* const lanes = space.rows.reserve<uint16_t>(kFewColumns * packed);
  for (int64_t k = 0; k < p.k; k += kDepth)
    pack(kernel, kernel.pack_few, p.a, 0, p.m, k, std::min(kDepth, p.k - k), x + k * kFewMost);
  alignas(64) float sums[kFewColumns * kFewMost] = {};
  float line[kFewColumns];
  for (int64_t column = 0; column < p.n; column += kFewColumns) {
    const auto* const w = reinterpret_cast<const uint16_t*>(at(p.b, 0, column));
    const int64_t width = std::min(kFewColumns, p.n - column);
    const bool adds = p.store == Store::add;
    for (int64_t i = 0; adds && i < p.m; ++i) {
      load_line(line, p.c, i, column, width);
      for (int64_t j = 0; j < width; ++j) sums[j * kFewMost + i] = line[j];
    }
    if (width == kFewColumns && packed == p.k) {
      kernel.multiply_few(packed, w, stride, kFewBlock, kFewColumns * stride, x, sums, adds);
    } else {
      kernel.pack_rows(kernel, w, stride, 1, width, p.k, lanes);
      kernel.multiply_few(packed, lanes, kFewBlock, kFewBlock * kFewColumns, 0, x, sums, adds);
    }
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < width; ++j) line[j] = sums[j * kFewMost + i];
      store_line(line, p.c, i, column, width);
    }
  }
}

void clear(const Bf16Product& p) {
  for (int64_t i = 0; i < p.m; ++i) std::fill_n(at(p.c, i, 0), p.n * byte_size(p.c.dtype), std::byte{0});
}

Bf16Product part(const Bf16Product& whole, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  Bf16Product p = whole;
  p.c.data = at(whole.c, row, column);
  p.a.data = at(whole.a, row, 0), p.b.data = at(whole.b, 0, column);
  p.m = rows, p.n = columns;
  return p;
}

// Cycles of one core, roughly.
double cost(const Bf16Kernel& kernel, const Extent& e) {
  const double products_per_cycle = kernel.few > 0 ? 256 : 32;
  return double(e.k) * (double(e.m) * double(e.n) / products_per_cycle + 0.25 * double(e.m + e.n));
}

const Bf16Kernel& picked() {
  static const Bf16Kernel& kernel = bf16_kernel(isa());
  return kernel;
}

}  // namespace

const Bf16Kernel& bf16_kernel(Isa isa) {
  const auto on = [](Isa wished) { return bf16_kernel_widened(has(wished) ? wished : Isa::generic); };
  static const Bf16Kernel widened[] = {on(Isa::generic), on(Isa::neon), on(Isa::avx2), on(Isa::avx512)};
  if (isa == Isa::amx && bf16_kernel_amx() != nullptr) return *bf16_kernel_amx();
  if (isa >= Isa::avx512 && has_avx512_bf16() && bf16_kernel_avx512() != nullptr) return *bf16_kernel_avx512();
  return widened[std::min(int(isa), int(Isa::avx512))];
}

void multiply_tile(const Bf16Kernel& kernel, const Bf16Product& product) {
  if (product.m <= 0 || product.n <= 0) return;
  if (product.k <= 0) {
    if (product.store == Store::overwrite) clear(product);
    return;
  }
  if (kernel.begin != nullptr) kernel.begin();
  if (reads_as_it_lies(kernel, product)) multiply_few(kernel, product);
  else if (product.c.dtype == DType::bf16 && (product.k > kSpilledDepth || product.cut_count > 0))
    round_at_end(kernel, product);
  else if (is_better_turned(kernel, product)) TileRun(kernel, turned(product), TileRun::Output::turned).run();
  else TileRun(kernel, product).run();
  if (kernel.end != nullptr) kernel.end();
}

void gemm_serial(const Bf16Product& product) { multiply_tile(picked(), product); }

void gemm_batch(Threads& threads, const Bf16Product* products, int64_t count) {
  const Bf16Kernel& kernel = picked();
  for_each_tile(
      threads, count, kernel.rows, kernel.columns,
      [&](int64_t i) {
        return Extent{products[i].m, products[i].n, products[i].k};
      },
      [&](const Extent& e) { return cost(kernel, e); },
      [&](int64_t i, int64_t row, int64_t rows, int64_t column, int64_t columns) {
        multiply_tile(kernel, part(products[i], row, rows, column, columns));
      });
}

void gemm(Threads& threads, const Bf16Product& product) { gemm_batch(threads, &product, 1); }

}  // namespace fulgur::cpu
