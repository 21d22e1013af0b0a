// Gathers rows of the table; its gradient adds them back, every column in row order.
#include "ops/embedding.h"

#include <cstring>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {

void embedding(Stream& stream, const Embedding& op) {
  const int32_t* tokens = op.tokens.elements<int32_t>();
  const int64_t rows = op.y.dim(0), width = op.y.dim(1);
  expect_indices(tokens, rows, op.table.out(), "every token is in the table");
  with_element_type<double, float, bf16>(op.y.dtype, [&]<class T>() {
    const Rows<T> y = rows_of<T>(op.y), table = rows_of<T>(op.table.values);
    for_rows(stream.threads(), rows, width,
             [&](int64_t row) { std::memcpy(y[row], table[tokens[row]], size_t(width) * sizeof(T)); });
  });
}

void embedding_backward(Stream& stream, const EmbeddingBackward& op) {
  const int32_t* tokens = op.tokens.elements<int32_t>();
  expect_indices(tokens, op.dy.dim(0), op.dtable.dim(0), "every token is in the table");
  with_element_type<double, float, bf16>(op.dy.dtype, [&]<class T>() {
    const Rows<Wide<T>> dtable = rows_of<Wide<T>>(op.dtable);
    const Rows<T> dy = rows_of<T>(op.dy);
    for_columns(stream.threads(), dy.width, [&](int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      for (int64_t row = 0; row < dy.count; ++row) row_add<T>(dtable[tokens[row]] + begin, dy[row] + begin, n);
    });
  });
}

}  // namespace fulgur::cpu
