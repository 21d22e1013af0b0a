// One scaled row and one dot per choice.
#include "ops/combine_experts.h"

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void backward(Threads& threads, const CombineExpertsBackward& op) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(op.dx), dy = rows_of<T>(op.dy), x = rows_of<T>(op.x);
  const Rows<W> dweights = rows_of<W>(op.dweights), weights = rows_of<W>(op.weights);
  const Rows<int32_t> place = rows_of<int32_t>(op.place);
  for_rows(threads, dy.count, dy.width * place.width, [&](int64_t row) {
    for (int64_t slot = 0; slot < place.width; ++slot) {
      const int64_t from = place[row][slot];
      dweights[row][slot] = 0;
      if (from < 0) continue;
      row_scale<T>(dx[from], dy[row], weights[row][slot], dy.width);
      dweights[row][slot] = row_dot<T>(dy[row], x[from], dy.width);
    }
  });
}

}  // namespace

void combine_experts_backward(Stream& stream, const CombineExpertsBackward& op) {
  expect_places(op.place, op.x.dim(0));
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
