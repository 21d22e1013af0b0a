// Floors: the least time that a call's work takes at rates measured in the same run (docs/bench.md).
#pragma once
#include <span>
#include <string>
#include <vector>

#include "bench/machine.h"
#include "bench/product_rates.h"
#include "device/recorder.h"

namespace fulgur::bench {

// A part of a floor: an amount of work at a rate.
struct FloorTerm {
  std::string work;  // the shape of a product, or which bytes
  const char* unit;  // "FLOP" or "byte"
  double amount = 0, rate = 0;
  double seconds() const { return rate > 0 ? amount / rate : 0; }
};

class Floors {
 public:
  Floors(const MemoryRates& memory, ProductRates& products) : memory_(memory), products_(products) {}

  // An operator without products: its bytes at the copy rate. A product: its FLOPs at the best rate measured for its
  // shape, or its bytes at the read rate where reading takes longer than those FLOPs at the best rate of any shape; and
  // so the attention of few rows. The tiles of an attention else: their FLOPs, or the bytes at the copy rate where
  // those take longer.
  std::vector<FloorTerm> of(const Work& work);

  const MemoryRates& memory() const { return memory_; }
  ProductRates& products() { return products_; }

 private:
  const MemoryRates memory_;
  ProductRates& products_;
};

double seconds_of(std::span<const FloorTerm> terms);

// Adds terms to those of the same work.
void add_terms(std::vector<FloorTerm>& to, std::span<const FloorTerm> terms);

}  // namespace fulgur::bench
