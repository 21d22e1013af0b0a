// How a product of bf16 is run on one thread: k in chunks, b's columns and what tiles cannot read of a packed, sums in
// strips that stay in the nearest cache (docs/decisions/003-bf16-products.md).
#pragma once
#include <utility>

#include "ops/cpu/bf16_kernel.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/gemm_tiling.h"
#include "ops/cpu/simd.h"

namespace fulgur::cpu {

inline constexpr int64_t kDepth = 256;  // packed steps of k whose panel of columns stays in the nearest cache
inline constexpr int kPanelLines = 24, kRowLines = 12;     // of memory that is asked for with each block of sums
inline constexpr int64_t kStripPanels = 6;                 // panels of rows whose sums stay there too
inline constexpr int64_t kSpilledDepth = 2048;             // packed steps after which f32 sums go back to memory
inline constexpr int64_t kRowBytes = 768 << 10;            // of packed rows, for the next cache
inline constexpr int64_t kColumnBytes = int64_t(4) << 20;  // of packed columns, for the last one
inline constexpr int64_t kMostLanes = 32;                  // of a panel
inline constexpr int64_t kDirectStride = 4096;  // elements; rows farther apart fall into few sets of the caches
inline constexpr int64_t kLinesAtOnce = 32;     // of a matrix whose lanes lie side by side: a block

// Steps of k that are packed side by side.
struct Run {
  int64_t begin, length, packed_begin;
};
// Runs that one call of a kernel adds.
struct Chunk {
  int64_t first_run, end_run, packed_begin, packed_length;
};

// How k is cut: runs end where the product is cut and after kDepth steps, each padded to whole steps of the kernel.
struct Steps {
  std::vector<Run> runs;
  std::vector<Chunk> chunks;
  int64_t packed = 0;

  void cut(const Bf16Kernel& kernel, const Bf16Product& p) {
    runs.clear(), chunks.clear(), packed = 0;
    int64_t begin = 0;
    for (int64_t i = 0; i < p.cut_count; ++i) add_range(kernel, std::exchange(begin, p.cuts[i]), p.cuts[i]);
    add_range(kernel, begin, p.k);
  }

 private:
  void add_range(const Bf16Kernel& kernel, int64_t begin, int64_t end) {
    for (; begin < end; begin += kDepth) {
      const int64_t length = std::min(kDepth, end - begin), padded = rounded_up(length, kernel.step);
      if (chunks.empty() || chunks.back().packed_length + padded > kDepth)
        chunks.push_back({int64_t(runs.size()), int64_t(runs.size()), packed, 0});
      runs.push_back({begin, length, packed});
      ++chunks.back().end_run, chunks.back().packed_length += padded;
      packed += padded;
    }
  }
};

// What a thread keeps between products.
struct Workspace {
  Steps steps;
  PackSpace rows, columns, strip, rounded, sums, dequantised;
};

inline Workspace& workspace() {
  thread_local Workspace space;
  return space;
}

inline const std::byte* at(const Bf16Input& matrix, int64_t row, int64_t column) {
  return static_cast<const std::byte*>(matrix.data) +
         (row * matrix.row_stride + column * matrix.column_stride) * byte_size(matrix.dtype);
}
inline std::byte* at(const Bf16Output& matrix, int64_t row, int64_t column) {
  return static_cast<std::byte*>(matrix.data) + (row * matrix.row_stride + column) * byte_size(matrix.dtype);
}

// The line of c as f32, and back.
inline void load_line(float* to, const Bf16Output& c, int64_t row, int64_t column, int64_t n) {
  if (c.dtype == DType::bf16) row_widen(to, reinterpret_cast<const bf16*>(at(c, row, column)), n);
  else std::copy_n(reinterpret_cast<const float*>(at(c, row, column)), n, to);
}
inline void store_line(const float* from, const Bf16Output& c, int64_t row, int64_t column, int64_t n) {
  if (c.dtype == DType::bf16) row_narrow(reinterpret_cast<bf16*>(at(c, row, column)), from, n);
  else std::copy_n(from, n, reinterpret_cast<float*>(at(c, row, column)));
}

// Packs `lanes` lanes of a matrix whose lanes are rows, for the steps [begin, begin + length).
inline void pack(const Bf16Kernel& kernel, Bf16Kernel::Pack how, const Bf16Input& matrix, int64_t lane, int64_t lanes,
                 int64_t begin, int64_t length, void* to) {
  const std::byte* const from = at(matrix, lane, begin);
  const int64_t lane_stride = matrix.row_stride, k_stride = matrix.column_stride;
  if (matrix.dtype == DType::bf16)
    return how(kernel, reinterpret_cast<const uint16_t*>(from), lane_stride, k_stride, lanes, length, to);
  if (kernel.pack_wide != nullptr && how == kernel.pack_columns && lane_stride == 1 && lanes == kernel.columns &&
      length % kernel.step == 0)
    return kernel.pack_wide(reinterpret_cast<const float*>(from), k_stride, length, to);
  bf16* const rounded = workspace().rounded.reserve<bf16>(kMostLanes * kDepth);
  const bool along_k = k_stride == 1;
  const int64_t lines = along_k ? lanes : length, width = along_k ? length : lanes;
  for (int64_t i = 0; i < lines; ++i)
    row_narrow(rounded + i * width, reinterpret_cast<const float*>(from) + i * (along_k ? lane_stride : k_stride),
               width);
  how(kernel, reinterpret_cast<const uint16_t*>(rounded), along_k ? width : 1, along_k ? 1 : width, lanes, length, to);
}

// Memory that will be read soon, asked for a few lines at a time.
class Ahead {
 public:
  Ahead() = default;
  // `lines` runs of `bytes`, `stride` bytes apart.
  Ahead(const std::byte* from, int64_t lines, int64_t stride, int64_t bytes)
      : line_(from), stride_(stride), bytes_(bytes), left_(lines) {}
  void fetch(int count) {
    for (; count > 0 && left_ > 0; --count) {
      __builtin_prefetch(line_ + at_, 0, 2);
      at_ += int64_t(PackSpace::kLine);
      if (at_ >= bytes_) at_ = 0, line_ += stride_, --left_;
    }
  }

 private:
  const std::byte* line_ = nullptr;
  int64_t stride_ = 0, bytes_ = 0, left_ = 0, at_ = 0;
};

// Where a block of sums lies in c; turned over where the product computes c's transpose.
struct Block {
  void* data;
  int64_t lines, width;
};

// The product on the calling thread: columns of b are packed once for a range of k, a's rows block by block, each
// block meets one panel of columns after the other.
class TileRun {
 public:
  enum class Output { as_it_is, turned };
  TileRun(const Bf16Kernel& kernel, const Bf16Product& product, Output output = Output::as_it_is)
      : kernel_(kernel),
        p_(product),
        turned_(output == Output::turned),
        steps_(workspace().steps),
        columns_of_b_(product.b.transposed()) {
    steps_.cut(kernel, product);
    reads_rows_ = kernel.reads_rows && p_.a.dtype == DType::bf16 && p_.a.column_stride == 1 && p_.cut_count == 0 &&
                  p_.k % kernel.step == 0 && p_.a.row_stride <= kDirectStride;
  }

  void run() {
    const int64_t depth = std::min(steps_.packed, kSpilledDepth);
    const int64_t columns = fitting(kColumnBytes, depth, kernel_.columns);
    for (int64_t column = 0; column < p_.n; column += columns)
      for (size_t first = 0; first < steps_.chunks.size();) {
        size_t end = first;
        while (end < steps_.chunks.size() && end_of(end) - steps_.chunks[first].packed_begin <= depth) ++end;
        run_columns(column, std::min(columns, p_.n - column), first, end);
        first = end;
      }
  }

 private:
  int64_t end_of(size_t chunk) const { return steps_.chunks[chunk].packed_begin + steps_.chunks[chunk].packed_length; }
  int64_t fitting(int64_t bytes, int64_t depth, int64_t panel) const {
    return std::max(bytes / (depth * kernel_.element_bytes) / panel * panel, panel);
  }

  // Columns [column, column + columns) for the chunks [first, end).
  void run_columns(int64_t column, int64_t columns, size_t first, size_t end) {
    first_ = first, end_ = end, origin_ = steps_.chunks[first].packed_begin, depth_ = end_of(end - 1) - origin_;
    const int64_t most = std::min(fitting(kRowBytes, depth_, kernel_.rows), rounded_up(p_.m, kernel_.rows));
    Workspace& space = workspace();
    rows_ = reserve(space.rows, most), columns_ = reserve(space.columns, rounded_up(columns, kernel_.columns));
    strip_ = space.strip.reserve<float>(kStripPanels * kernel_.rows * kernel_.columns);
    pack_lanes(kernel_.pack_columns, kernel_.columns, columns_of_b_, column, columns, columns_);
    for (int64_t row = 0; row < p_.m; row += most) {
      const int64_t rows = std::min(most, p_.m - row);
      const int64_t packed = reads_rows_ ? rows - rows % kernel_.rows : 0;  // the first row that may have to be
      if (packed < rows && !reads_panel(packed, rows))
        pack_lanes(kernel_.pack_rows, kernel_.rows, p_.a, row + packed, rows - packed, rows_ + panel_bytes(packed));
      next_rows_ = rows_after(row + rows, most);
      for (int64_t j = 0; j < columns; j += kernel_.columns) {
        next_panel_ = Ahead(columns_ + panel_bytes(j + kernel_.columns), j + kernel_.columns < columns, 0,
                            panel_bytes(kernel_.columns));
        for (int64_t r = 0; r < rows; r += kStripPanels * kernel_.rows)
          multiply_strip(columns_ + panel_bytes(j), row, {r, rows}, column + j, std::min(kernel_.columns, columns - j));
      }
    }
  }

  std::byte* reserve(PackSpace& space, int64_t lanes) const {
    return space.reserve<std::byte>(panel_bytes(lanes) + kBf16PackSlack * kernel_.element_bytes);
  }
  int64_t panel_bytes(int64_t lanes) const { return lanes * depth_ * kernel_.element_bytes; }

  // Panels of `width` lanes, in the order in which the memory lies. A panel of lanes whose steps lie side by side may
  // spill over its end, so those are packed one after the other.
  void pack_lanes(Bf16Kernel::Pack how, int64_t width, const Bf16Input& matrix, int64_t lane, int64_t lanes,
                  std::byte* to) const {
    const int64_t begin = steps_.chunks[first_].first_run, end = steps_.chunks[end_ - 1].end_run;
    const auto pack_part = [&](int64_t first, const Run& run, int64_t k, int64_t length) {
      pack(kernel_, how, matrix, lane + first, std::min(width, lanes - first), run.begin + k, length,
           to + panel_bytes(first) + (run.packed_begin + k - origin_) * width * kernel_.element_bytes);
    };
    if (matrix.column_stride == 1) {
      for (int64_t first = 0; first < lanes; first += width)
        for (int64_t r = begin; r < end; ++r)
          pack_part(first, steps_.runs[size_t(r)], 0, steps_.runs[size_t(r)].length);
      return;
    }
    for (int64_t r = begin; r < end; ++r) {
      const Run& run = steps_.runs[size_t(r)];
      for (int64_t k = 0; k < run.length; k += kLinesAtOnce)
        for (int64_t first = 0; first < lanes; first += width)
          pack_part(first, run, k, std::min(kLinesAtOnce, run.length - k));
    }
  }

  // The rows that the next block multiplies, where they are read as they lie and their steps are at hand.
  Ahead rows_after(int64_t row, int64_t most) const {
    if (!reads_rows_ || row >= p_.m) return {};
    return {at(p_.a, row, origin_), std::min(most, p_.m - row), p_.a.row_stride * byte_size(p_.a.dtype),
            depth_ * byte_size(p_.a.dtype)};
  }

  int64_t count_of(int64_t r, int64_t rows) const { return std::min(kernel_.rows, rows - r); }
  // Whether a kernel, which reads and writes row_grain rows at a time, stays inside the rows from r on.
  bool is_whole(int64_t r, int64_t rows) const { return count_of(r, rows) % kernel_.row_grain == 0; }
  bool reads_panel(int64_t r, int64_t rows) const { return reads_rows_ && is_whole(r, rows); }

  Bf16Rows rows_of_a(int64_t row, int64_t r, int64_t rows, const Chunk& chunk) const {
    if (reads_panel(r, rows)) return {at(p_.a, row + r, chunk.packed_begin), p_.a.row_stride, kernel_.step};
    const int64_t offset = (chunk.packed_begin - origin_) * kernel_.rows * kernel_.element_bytes;
    return {rows_ + panel_bytes(r) + offset, kernel_.step, kernel_.step * kernel_.rows};
  }

  // Of the rows that are at hand, those from `first` on.
  struct Strip {
    int64_t first, rows;
  };

  // Sums of a strip of rows for one panel of columns, chunk by chunk: in place where a block is added to once and lies
  // in c as it is, else in blocks that lie close together.
  void multiply_strip(const std::byte* panel, int64_t row, Strip strip, int64_t column, int64_t width) {
    const int64_t rows = strip.rows, end = std::min(rows, strip.first + kStripPanels * kernel_.rows);
    const bool from_c = p_.store == Store::add || first_ > 0;
    const bool one_chunk = !turned_ && p_.c.dtype == DType::f32 && width == kernel_.columns && end_ - first_ == 1;
    const auto in_place = [&](int64_t r) { return one_chunk && is_whole(r, rows); };
    const auto block = [&](int64_t r) { return block_of(row + r, column, count_of(r, rows), width); };
    const auto sums = [&](int64_t r) { return strip_ + (r - strip.first) * kernel_.columns; };
    for (int64_t r = strip.first; r < end; r += kernel_.rows) {
      if (depth_ >= kDepth) fetch(block(r));
      if (from_c && !in_place(r)) load_block(sums(r), block(r));
    }
    for (size_t i = first_; i < end_; ++i) {
      const Chunk& chunk = steps_.chunks[i];
      const std::byte* const columns = panel + (chunk.packed_begin - origin_) * kernel_.columns * kernel_.element_bytes;
      for (int64_t r = strip.first; r < end; r += kernel_.rows) {
        const bool in_c = in_place(r);
        kernel_.multiply(kernel_, count_of(r, rows), chunk.packed_length, rows_of_a(row, r, rows, chunk), columns,
                         in_c ? reinterpret_cast<float*>(at(p_.c, row + r, column)) : sums(r),
                         in_c ? p_.c.row_stride : kernel_.columns, from_c || i > first_);
        next_panel_.fetch(kPanelLines), next_rows_.fetch(kRowLines);
      }
    }
    for (int64_t r = strip.first; r < end; r += kernel_.rows)
      if (!in_place(r)) store_block(sums(r), block(r));
  }

  Block block_of(int64_t row, int64_t column, int64_t rows, int64_t width) const {
    if (turned_) return {at(p_.c, column, row), width, rows};
    return {at(p_.c, row, column), rows, width};
  }
  // Asks for a block's lines ahead of time: they are written after many steps.
  void fetch(const Block& b) const {
    const int64_t element = byte_size(p_.c.dtype);
    for (int64_t line = 0; line < b.lines; ++line)
      for (int64_t byte = 0; byte < b.width * element; byte += int64_t(PackSpace::kLine))
        __builtin_prefetch(static_cast<std::byte*>(b.data) + line * p_.c.row_stride * element + byte, 1);
  }
  void load_block(float* sums, const Block& b) const {
    kernel_.load_block(kernel_, sums, b.data, p_.c.dtype == DType::bf16, p_.c.row_stride, b.lines, b.width);
    if (turned_) kernel_.turn_block(sums);
  }
  void store_block(float* sums, const Block& b) const {
    if (turned_) kernel_.turn_block(sums);
    kernel_.store_block(kernel_, sums, b.data, p_.c.dtype == DType::bf16, p_.c.row_stride, b.lines, b.width);
  }

  const Bf16Kernel& kernel_;
  const Bf16Product& p_;
  const bool turned_;
  Steps& steps_;
  const Bf16Input columns_of_b_;
  size_t first_ = 0, end_ = 0;
  int64_t origin_ = 0, depth_ = 0;
  bool reads_rows_;
  std::byte *rows_ = nullptr, *columns_ = nullptr;
  float* strip_ = nullptr;
  Ahead next_panel_, next_rows_;
};

}  // namespace fulgur::cpu
