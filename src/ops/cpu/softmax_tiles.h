// Softmax attention's rows in tiles that lie inside one block of the grid, and a logarithm of our own.
#pragma once
#include <vector>

#include "ops/cpu/attention_block.h"

namespace fulgur::cpu {

// Rows [row, row + rows) of the batch: one sequence's positions from `position` on, inside one block of the grid.
struct RowTile {
  int64_t sequence, row, rows, position;
  int64_t block() const { return position / kGrid; }
  // How many keys of a block the tile's row i sees.
  int64_t seen(int64_t key_block, int64_t i) const { return key_block < block() ? kGrid : position % kGrid + i + 1; }
  // The same for `heads` times the tile's rows on each other and `present` keys of the block.
  Seen seen(int64_t key_block, int64_t heads, int64_t present) const {
    return {.first = seen(key_block, 0) - 1, .period = rows, .rows = heads * rows, .n = present};
  }
};

inline std::vector<RowTile> tiles_of(const View<int32_t, 1>& row_begin, const View<int64_t, 1>& positions) {
  std::vector<RowTile> tiles;
  for (int64_t sequence = 0; sequence + 1 < row_begin.shape[0]; ++sequence) {
    const int64_t end = row_begin(sequence + 1);
    for (int64_t row = row_begin(sequence); row < end;) {
      const int64_t position = positions(row), rows = std::min(kGrid - position % kGrid, end - row);
      tiles.push_back({sequence, row, rows, position});
      row += rows;
    }
  }
  return tiles;
}

}  // namespace fulgur::cpu
