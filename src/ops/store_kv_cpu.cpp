// Appends k and v rows to the pages of their sequences.
#include "ops/store_kv.h"

#include <algorithm>

#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kRowsPerItem = 32;

template <class T>
void store(Threads& threads, const StoreKv& op) {
  const View<T, 5> pages = op.kv_pages.view<T, 5>();
  const View<T, 3> k = op.k.view<T, 3>(), v = op.v.view<T, 3>();
  const View<int64_t, 1> positions = op.positions.view<int64_t, 1>();
  const View<int32_t, 2> table = op.page_table.view<int32_t, 2>();
  const int32_t* const row_begin = op.row_begin.elements<int32_t>();
  const int64_t sequences = op.row_begin.dim(0) - 1, heads = op.k.dim(1), width = op.k.dim(2);
  for (int64_t s = 0; s < sequences; ++s) {
    const bool empty = row_begin[s] == row_begin[s + 1];
    expect(empty || positions(row_begin[s + 1] - 1) / kGrid < table.shape[1], "the page table reaches every position");
  }
  threads.for_ranges(row_begin[sequences], kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sequence = std::upper_bound(row_begin, row_begin + sequences, row) - row_begin - 1;
      const int64_t position = positions(row), page = table(sequence, position / kGrid);
      for (int64_t head = 0; head < heads; ++head) {
        std::copy_n(&k(row, head, 0), width, &pages(page, 0, head, position % kGrid, 0));
        std::copy_n(&v(row, head, 0), width, &pages(page, 1, head, position % kGrid, 0));
      }
    }
  });
}

}  // namespace

void store_kv(Stream& stream, const StoreKv& op) {
  with_element_type<double, float, bf16>(op.k.dtype, [&]<class T>() { store<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
