#include "ops/expert_linear.h"

#include <cstring>
#include <type_traits>
#include <vector>

#include "ops/cpu/matrices.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// visit(expert, first row, row after the last).
template <class Visit>
void for_each_expert(const Tensor& expert_begin, int64_t rows, Visit&& visit) {
  const auto begin = expert_begin.view<int32_t, 1>();
  for (int64_t expert = 0; expert + 1 < begin.shape[0]; ++expert) {
    const int64_t first = begin(expert), last = begin(expert + 1);
    expect(0 <= first && first <= last && last <= rows, "experts' rows ascend within the choices");
    visit(expert, first, last);
  }
}

// Rows of no expert become zero.
void clear_surplus(const Tensor& y, const Tensor& expert_begin) {
  const int64_t width = y.dim(1) * byte_size(y.dtype), stride = y.stride[0] * byte_size(y.dtype);
  for (int64_t row = expert_begin.elements<int32_t>()[expert_begin.dim(0) - 1]; row < y.dim(0); ++row)
    std::memset(y.data + row * stride, 0, size_t(width));
}

// Where the choices [first, last) pass a multiple of row_block, counted from first, and their number at the end.
void add_cuts(std::vector<int64_t>& cuts, const ExpertLinearBackward& op, int64_t first, int64_t last) {
  if (op.row_block == 0 || first == last) return;
  const int32_t* const rows = op.choice_rows.elements<int32_t>();
  for (int64_t i = first + 1; i < last; ++i)
    if (rows[i] / op.row_block != rows[i - 1] / op.row_block) cuts.push_back(i - first);
  cuts.push_back(last - first);
}

}  // namespace

void expert_linear(Stream& stream, const ExpertLinear& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() {
    std::vector<ProductOf<T>> products;
    products.reserve(size_t(op.w.values.dim(0)));
    for_each_expert(op.expert_begin, op.x.dim(0), [&](int64_t expert, int64_t first, int64_t last) {
      products.push_back(product_of<T>({.c = op.y.rows(first, last),
                                        .a = op.x.rows(first, last),
                                        .b = transposed(op.w.values.at(expert)),
                                        .scales = op.w.scales ? op.w.scales.at(expert) : Tensor{}}));
    });
    gemm_batch(stream.threads(), products.data(), int64_t(products.size()));
  });
  clear_surplus(op.y, op.expert_begin);
}

void expert_linear_backward(Stream& stream, const ExpertLinearBackward& op) {
  if (op.dw_store == fulgur::Store::overwrite) clear(stream, op.dw);
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() {
    std::vector<ProductOf<T>> products;
    products.reserve(size_t(op.w.values.dim(0)) * 2);
    std::vector<std::vector<int64_t>> cuts(size_t(op.w.values.dim(0)));
    for_each_expert(op.expert_begin, op.x.dim(0), [&](int64_t expert, int64_t first, int64_t last) {
      const Tensor dy = op.dy.rows(first, last);
      products.push_back(product_of<T>({.c = op.dx.rows(first, last), .a = dy, .b = op.w.values.at(expert)}));
      products.push_back(product_of<T>(
          {.c = op.dw.at(expert), .a = transposed(dy), .b = op.x.rows(first, last), .store = Store::add}));
      if constexpr (std::is_same_v<T, bf16>) {
        std::vector<int64_t>& ends = cuts[size_t(expert)];
        add_cuts(ends, op, first, last);
        products.back().cuts = ends.data(), products.back().cut_count = int64_t(ends.size());
      }
    });
    gemm_batch(stream.threads(), products.data(), int64_t(products.size()));
  });
  clear_surplus(op.dx, op.expert_begin);
}

}  // namespace fulgur::cpu
