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

// One row by a matrix that nothing is packed for: b's columns lie side by side, so packing it would cost more than
// multiplying, or few columns do not repay packing the row.
bool is_one_row(const Bf16Kernel& kernel, const Bf16Product& p) {
  if (kernel.multiply_one == nullptr || p.m != 1 || p.a.dtype != DType::bf16 || p.a.column_stride != 1) return false;
  if (p.c.dtype != DType::f32 || p.cut_count > 0) return false;
  if (p.b.column_stride == 1) return p.n % kernel.columns == 0;
  return p.n <= 2 * kernel.columns && p.k % kernel.step == 0 && p.b.dtype == DType::bf16;
}
void multiply_one(const Bf16Kernel& kernel, const Bf16Product& p) {
  kernel.multiply_one(static_cast<const uint16_t*>(p.a.data), p.k,
                      {p.b.data, p.b.dtype == DType::bf16, p.b.row_stride, p.b.column_stride},
                      static_cast<float*>(p.c.data), p.n, p.store == Store::add);
}

bool reads_as_it_lies(const Bf16Kernel& kernel, const Bf16Product& p) {
  return p.m <= kernel.few && p.b.row_stride == 1 && p.b.dtype == DType::bf16 && p.cut_count == 0;
}

// The rows of few, packed for all of k.
uint16_t* packed_few(const Bf16Kernel& kernel, const Bf16Product& p) {
  auto* const x = workspace().columns.reserve<uint16_t>(kMostLanes * rounded_up(p.k, kernel.step) + kBf16PackSlack);
  for (int64_t k = 0; k < p.k; k += kDepth)
    pack(kernel, kernel.pack_few, p.a, 0, p.m, k, std::min(kDepth, p.k - k), x + k * kMostLanes);
  return x;
}

// Few rows: b is read as it lies, which a decode step needs, and no element is read twice.
void multiply_few(const Bf16Kernel& kernel, const Bf16Product& p) {
  Workspace& space = workspace();
  const int64_t packed = rounded_up(p.k, kernel.step), stride = p.b.column_stride, columns = kernel.columns;
  const uint16_t* const x = packed_few(kernel, p);
  auto* const lanes = space.rows.reserve<uint16_t>(columns * packed + kBf16PackSlack);
  alignas(64) float sums[kMostLanes * kMostLanes] = {};
  for (int64_t column = 0; column < p.n; column += columns) {
    const auto* const w = reinterpret_cast<const uint16_t*>(at(p.b, 0, column));
    const int64_t width = std::min(columns, p.n - column), next = column + 2 * columns <= p.n ? columns * stride : 0;
    const bool adds = p.store == Store::add, wide = p.c.dtype == DType::f32;
    if (adds) kernel.load_block(kernel, sums, at(p.c, 0, column), !wide, p.c.row_stride, p.m, width);
    if (width == columns && packed == p.k) {
      kernel.multiply_few(p.m, packed, w, stride, kernel.step, next, x, sums, adds);
    } else {
      kernel.pack_rows(kernel, w, stride, 1, width, p.k, lanes);
      kernel.multiply_few(p.m, packed, lanes, kernel.step, kernel.step * columns, 0, x, sums, adds);
    }
    kernel.store_block(kernel, sums, at(p.c, 0, column), !wide, p.c.row_stride, p.m, width);
  }
}

// Columns [0, n) of k steps each, end to end in b.
void dequantise(const Bf16Kernel& kernel, const QuantisedColumns& columns, int64_t n, int64_t k, bf16* b) {
  if (kernel.dequantise == nullptr) return dequantise(columns, n, k, b);
  for (int64_t j = 0; j < n; ++j, b += k) {
    const QuantisedColumns one = columns.from(j);
    for (int64_t step = 0; step < k; step += kScaleColumns)
      kernel.dequantise(bits(b + step), one.values + step, float(bf16(one.scales[step / kScaleColumns])),
                        std::min(kScaleColumns, k - step));
  }
}

// What is read after a piece of columns: the second piece from there on, in the columns behind where k ends before.
void fetch_ahead(const QuantisedColumns& piece, int64_t columns, int64_t step, int64_t k) {
  constexpr int64_t kAhead = 2 * kDepth;
  const int64_t ahead = step + kAhead < k ? kAhead : columns * piece.stride + kAhead - rounded_up(k, kDepth);
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t byte = 0; byte < kDepth; byte += int64_t(PackSpace::kLine))
      __builtin_prefetch(piece.values + j * piece.stride + ahead + byte, 0, 2);
}

// Few rows by a quantised b: a piece of as many columns as are multiplied together becomes bf16 in the nearest cache,
// while the next ones are on their way.
void multiply_few_dequantised(const Bf16Kernel& kernel, const Bf16Product& p) {
  Workspace& space = workspace();
  const int64_t columns = kernel.columns, pitch = rounded_up(kDepth, kernel.step);
  const uint16_t* const x = packed_few(kernel, p);
  bf16* const piece = space.dequantised.reserve<bf16>(columns * kDepth);
  auto* const lanes = space.rows.reserve<uint16_t>(columns * pitch + kBf16PackSlack);
  alignas(64) float sums[kMostLanes * kMostLanes] = {};
  const bool adds = p.store == Store::add, halves = p.c.dtype == DType::bf16;
  for (int64_t column = 0; column < p.n; column += columns) {
    const int64_t width = std::min(columns, p.n - column);
    if (adds) kernel.load_block(kernel, sums, at(p.c, 0, column), halves, p.c.row_stride, p.m, width);
    for (int64_t k = 0; k < p.k; k += kDepth) {
      const int64_t length = std::min(kDepth, p.k - k), packed = rounded_up(length, kernel.step);
      const QuantisedColumns from = p.quantised.from(column, k);
      fetch_ahead(from, width, k, p.k);
      dequantise(kernel, from, width, length, piece);
      const auto* const w = reinterpret_cast<const uint16_t*>(piece);
      if (width == columns && packed == length) {
        kernel.multiply_few(p.m, packed, w, length, kernel.step, 0, x + k * kMostLanes, sums, adds || k > 0);
      } else {
        kernel.pack_rows(kernel, w, length, 1, width, length, lanes);
        kernel.multiply_few(p.m, packed, lanes, kernel.step, kernel.step * columns, 0, x + k * kMostLanes, sums,
                            adds || k > 0);
      }
    }
    kernel.store_block(kernel, sums, at(p.c, 0, column), halves, p.c.row_stride, p.m, width);
  }
}

void clear(const Bf16Product& p) {
  for (int64_t i = 0; i < p.m; ++i) std::fill_n(at(p.c, i, 0), p.n * byte_size(p.c.dtype), std::byte{0});
}

Bf16Product part(const Bf16Product& whole, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  Bf16Product p = whole;
  p.c.data = at(whole.c, row, column);
  p.a.data = at(whole.a, row, 0);
  if (whole.quantised.values) p.quantised = whole.quantised.from(column);
  else p.b.data = at(whole.b, 0, column);
  p.m = rows, p.n = columns;
  return p;
}

// Columns that are dequantised together: so many that packing the rows anew for each of such parts costs little.
constexpr int64_t kDequantisedBytes = 1 << 20, kLeastDequantised = 256;

void multiply_dequantised(const Bf16Kernel& kernel, const Bf16Product& p) {
  const int64_t columns =
      std::max(rounded_up(kDequantisedBytes / (p.k * byte_size(DType::bf16)), kernel.columns), kLeastDequantised);
  bf16* const b = workspace().dequantised.reserve<bf16>(std::min(columns, p.n) * p.k);
  for (int64_t column = 0; column < p.n; column += columns) {
    Bf16Product some = part(p, 0, p.m, column, std::min(columns, p.n - column));
    dequantise(kernel, some.quantised, some.n, p.k, b);
    some.quantised = {}, some.b.data = b;
    multiply_tile(kernel, some);
  }
}

// Cycles of one core, roughly.
double cost(const Bf16Kernel& kernel, const Extent& e) {
  return double(e.k) * (double(e.m) * double(e.n) / kernel.products_per_cycle + 0.25 * double(e.m + e.n));
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
  const bool few = reads_as_it_lies(kernel, product), quantised = product.quantised.values != nullptr;
  if (quantised && !few) return multiply_dequantised(kernel, product);
  if (!quantised && is_one_row(kernel, product)) return multiply_one(kernel, product);
  if (kernel.begin != nullptr) kernel.begin();
  if (few && quantised) multiply_few_dequantised(kernel, product);
  else if (few) multiply_few(kernel, product);
  else if (product.c.dtype == DType::bf16 && (product.k > kSpilledDepth || product.cut_count > 0))
    round_at_end(kernel, product);
  else if (is_better_turned(kernel, product)) TileRun(kernel, turned(product), TileRun::Output::turned).run();
  else TileRun(kernel, product).run();
  if (kernel.end != nullptr) kernel.end();
}

bool packs_f32() { return picked().pack_wide != nullptr; }

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
