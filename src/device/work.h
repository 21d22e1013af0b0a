// Work: what an operator asks of the machine, counted from its operands. Floors are this work at measured rates.
#pragma once
#include <cstdint>
#include <vector>

#include "base/tensor.h"

namespace fulgur {

// How a product's inputs lie in memory: rows of a times rows of b (a weight), a plain product (a weight's input
// gradient), columns of a times columns of b (a weight gradient).
enum class ProductLayout : uint8_t { nt, nn, tn };

// `count` equal products c[m, n] = sum over k of a[m, k] * b[k, n], run by one call.
struct MatrixProduct {
  int64_t m, n, k;
  ProductLayout layout;
  DType a, b, c;
  bool adds = false;  // to what is in c
  int64_t count = 1;
  bool in_cache = false;  // a tile of an attention: one thread's, on operands that never leave its cache
  double flops = 0;       // of all, as counted: less than 2 m n k count where half of a tile is masked
};

struct Work {
  int64_t bytes = 0;  // every element that is needed, read or written once
  std::vector<MatrixProduct> products = {};

  double flops() const {
    double sum = 0;
    for (const MatrixProduct& p : products) sum += p.flops;
    return sum;
  }
};

}  // namespace fulgur
