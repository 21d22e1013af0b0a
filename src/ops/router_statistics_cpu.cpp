// One thread: a few integers per row.
#include "ops/router_statistics.h"

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {

void router_statistics(Stream&, const RouterStatistics& op) {
  const Rows<int32_t> choices = rows_of<int32_t>(op.choices), place = rows_of<int32_t>(op.place);
  double *load = op.load.elements<double>(), *dropped = op.dropped.elements<double>();
  const int64_t window = place.count / choices.count, parts = op.dropped.dim(0);
  for (int64_t w = 0; w < choices.count; ++w)
    for (int64_t e = 0; e < choices.width; ++e) load[e] += choices[w][e];
  for (int64_t row = 0; row < place.count; ++row)
    dropped[row % window * parts / window] += double(std::count(place[row], place[row] + place.width, -1));
  with_element_type<double, float>(op.entropy.dtype, [&]<class T>() {
    const T* entropy = op.entropy.elements<T>();
    double* sum = op.entropy_sum.elements<double>();
    for (int64_t row = 0; row < place.count; ++row) *sum += double(entropy[row]);
  });
}

}  // namespace fulgur::cpu
