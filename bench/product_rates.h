// The rate that this machine reaches for the very shape of a product: ours and, where its plug-in is there, oneDNN's.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/threads.h"
#include "bench/machine.h"
#include "device/work.h"

namespace fulgur::bench {

// FLOP per second, of products run as the operator runs them. 0: not measured, or its results were wrong.
struct ProductRate {
  double ours = 0, onednn = 0;
  double best() const { return ours > onednn ? ours : onednn; }
};

// "2048 x 3072 x 1024 nt bf16", with the number of products where there are several.
std::string described(const MatrixProduct& product);

// FLOP per second of a card's matrix units in bf16 and of its other units in f32, as its maker states them.
struct DataSheet {
  double bf16, f32;
};
inline constexpr DataSheet kH100{989e12, 67e12};  // SXM, dense

class ProductRates {
 public:
  // seconds: how long the runs of one shape take together, at least. memory: bytes of the rings of operands, at least;
  // by default they exceed the caches.
  ProductRates(Threads& threads, double seconds, int64_t memory = cache_bytes() * 3 / 2);
  // Nothing is measured.
  ProductRates(Threads& threads, DataSheet sheet);
  ~ProductRates();

  // Measured when a shape is first asked for: random operands in rotating sets that exceed the caches together (tiles
  // of an attention stay in one), elements of the result poisoned before each run and compared with f64 sums after it.
  // Types other than f32 and bf16 have no rate.
  const ProductRate& of(const MatrixProduct& product);
  // Of a square product in the type of this one's weights: what the machine reaches where memory does not matter.
  double peak(const MatrixProduct& product);
  const std::map<std::string, ProductRate>& all() const { return rates_; }

 private:
  struct Pools;

  Threads& threads_;
  const double seconds_;
  const std::optional<DataSheet> sheet_;
  std::map<std::string, ProductRate> rates_;
  std::unique_ptr<Pools> pools_;
};

}  // namespace fulgur::bench
