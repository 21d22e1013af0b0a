#include "bench/product_rates.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench/onednn.h"
#include "bench/timing.h"
#include "device/buffer.h"
#include "ops/cpu/matrices.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kTileRepeats = 8;  // of a tile in cache, so that all but the first find it there
constexpr int64_t kTilesOfThread = 8;
constexpr int64_t kPeakSide = 768;
constexpr int kSamples = 16;                             // elements of a result that are compared
constexpr double kBound = 1e-5, kBf16Bound = 1.0 / 256;  // of the sum of |a * b|

// A number in (-1, 1) for every index.
float noise(uint64_t index) {
  uint64_t x = (index + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  return float(int32_t(x >> 32)) * 0x1p-31f;
}

// Memory that is handed out in a ring: who comes back has seen everything else since.
class Ring {
 public:
  // Values of the type, drawn at random.
  Ring(Threads& threads, DType type, int64_t bytes) : memory_(size_t(bytes), Purpose::workspace) {
    threads.for_ranges(bytes / byte_size(type), 1 << 18, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (type == DType::bf16) reinterpret_cast<bf16*>(memory_.data())[i] = bf16(noise(uint64_t(i)));
        else reinterpret_cast<float*>(memory_.data())[i] = noise(uint64_t(i));
      }
    });
  }
  Tensor matrix(DType type, int64_t rows, int64_t columns) {
    Tensor t = contiguous(nullptr, type, {}, {rows, columns});
    if (at_ + t.bytes() > int64_t(memory_.bytes())) at_ = 0;
    t.data = memory_.data() + at_;
    at_ = (at_ + t.bytes() + 255) / 256 * 256;
    return t;
  }
  void rewind() { at_ = 0; }
  int64_t bytes() const { return int64_t(memory_.bytes()); }

 private:
  Buffer memory_;
  int64_t at_ = 0;
};

float value(const Tensor& t, int64_t row, int64_t column) {
  const int64_t at = row * t.stride[0] + column * t.stride[1];
  return t.dtype == DType::bf16 ? float(reinterpret_cast<const bf16*>(t.data)[at])
                                : reinterpret_cast<const float*>(t.data)[at];
}

void set(const Tensor& t, int64_t row, int64_t column, float to) {
  const int64_t at = row * t.stride[0] + column * t.stride[1];
  if (t.dtype == DType::bf16) reinterpret_cast<bf16*>(t.data)[at] = bf16(to);
  else reinterpret_cast<float*>(t.data)[at] = to;
}

bool in_bf16(const MatrixProduct& p) { return p.a == DType::bf16 || p.b == DType::bf16; }

// The operands of one product, and where its result is looked at.
struct Operands {
  cpu::Matrices matrices;

  template <class Visit>
  void samples(const Visit& visit) const {
    for (uint64_t i = 0; i < kSamples; ++i)
      visit(int64_t(i * 7919 % uint64_t(matrices.c.dim(0))), int64_t(i * 104729 % uint64_t(matrices.c.dim(1))));
  }
  void poison() const {
    samples([&](int64_t r, int64_t c) { set(matrices.c, r, c, matrices.store == Store::add ? 0.0f : NAN); });
  }
  // times: how often the product was added.
  bool right(bool rounds, int64_t times) const {
    bool all = true;
    samples([&](int64_t r, int64_t c) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < matrices.a.dim(1); ++k) {
        float a = value(matrices.a, r, k), b = value(matrices.b, k, c);
        if (rounds) a = float(bf16(a)), b = float(bf16(b));
        sum += double(a) * double(b), size += std::abs(double(a) * double(b));
      }
      const double wanted = sum * double(times), bound = size * double(times) * (rounds ? kBf16Bound : kBound);
      all &= std::abs(double(value(matrices.c, r, c)) - wanted) <= bound + 1e-30;
    });
    return all;
  }
};

template <class T>
std::vector<cpu::ProductOf<T>> products_of(const std::vector<Operands>& operands) {
  std::vector<cpu::ProductOf<T>> products;
  for (const Operands& o : operands) products.push_back(cpu::product_of<T>(o.matrices));
  return products;
}

template <class T>
void run_ours(Threads& threads, const std::vector<cpu::ProductOf<T>>& products, bool in_cache) {
  if (!in_cache) return cpu::gemm_batch(threads, products.data(), int64_t(products.size()));
  threads.for_each(int64_t(products.size()), [&](int64_t i) {
    for (int64_t repeat = 0; repeat < kTileRepeats; ++repeat) cpu::gemm_serial(products[size_t(i)]);
  });
}

}  // namespace

// Random inputs of both types and outputs, each a ring that exceeds the caches.
struct ProductRates::Pools {
  std::map<DType, Ring> inputs;
  std::map<DType, Ring> outputs;
  const int64_t least;  // bytes of a ring

  Ring& grown(std::map<DType, Ring>& rings, Threads& threads, DType type, int64_t bytes) {
    bytes = std::max(bytes + bytes / 8, least);
    const auto found = rings.find(type);
    if (found != rings.end() && found->second.bytes() >= bytes) return found->second;
    rings.erase(type);
    return rings.emplace(type, Ring(threads, type, bytes)).first->second;
  }

  // The next set of operands: of every product of a call, or of every tile that threads work on.
  std::vector<Operands> next(Threads& threads, const MatrixProduct& p) {
    const int64_t count = p.in_cache ? kTilesOfThread * threads.count() : p.count;
    const int64_t a_bytes = p.m * p.k * byte_size(p.a), b_bytes = p.n * p.k * byte_size(p.b);
    for (const DType type : {p.a, p.b}) grown(inputs, threads, type, count * (a_bytes + b_bytes + 512));
    Ring &a = inputs.at(p.a), &b = inputs.at(p.b);
    Ring& c = grown(outputs, threads, p.c, count * (p.m * p.n * byte_size(p.c) + 256));
    if (p.in_cache) a.rewind(), b.rewind(), c.rewind();
    const bool tn = p.layout == ProductLayout::tn, nt = p.layout == ProductLayout::nt;
    std::vector<Operands> set;
    for (int64_t i = 0; i < count; ++i) {
      const Tensor at = a.matrix(p.a, tn ? p.k : p.m, tn ? p.m : p.k);
      const Tensor bt = b.matrix(p.b, nt ? p.n : p.k, nt ? p.k : p.n);
      set.push_back({{.c = c.matrix(p.c, p.m, p.n),
                      .a = tn ? cpu::transposed(at) : at,
                      .b = nt ? cpu::transposed(bt) : bt,
                      .store = p.adds ? Store::add : Store::overwrite}});
    }
    return set;
  }
};

namespace {

double flops_of_run(const MatrixProduct& p, size_t products) {
  return 2.0 * double(p.m) * double(p.n) * double(p.k) * double(products) * (p.in_cache ? kTileRepeats : 1);
}

template <class T, class Next>
double our_rate(Threads& threads, const MatrixProduct& p, double seconds, const Next& next) {
  std::vector<Operands> set;
  std::vector<cpu::ProductOf<T>> products;
  const double best = fastest(
      seconds,
      [&](int) {
        set = next(), products = products_of<T>(set);
        for (const Operands& o : set) o.poison();
      },
      [&](int) { run_ours<T>(threads, products, p.in_cache); },
      [&](int) {
        const int64_t times = p.in_cache && p.adds ? kTileRepeats : 1;
        for (const Operands& o : set) expect(o.right(in_bf16(p), times), "a product that is timed is right");
      });
  return flops_of_run(p, set.size()) / best;
}

// 0 where it has no such product or a wrong result. Groups run one after another: it knows no grouped product.
template <class Next>
double onednn_rate(Threads& threads, const MatrixProduct& p, double seconds, const Next& next) {
  if (!onednn() || p.in_cache) return 0;
  const FulgurOnednnProduct wanted{p.m,
                                   p.n,
                                   p.k,
                                   p.layout == ProductLayout::tn,
                                   p.layout == ProductLayout::nt,
                                   p.a == DType::bf16,
                                   p.b == DType::bf16,
                                   p.c == DType::bf16,
                                   p.adds,
                                   threads.count()};
  const std::unique_ptr<void, void (*)(void*)> product(onednn().create(&wanted), onednn().destroy);
  if (!product) return 0;
  std::vector<Operands> set;
  bool right = true;
  const double best = fastest(
      seconds,
      [&](int) {
        set = next();
        for (const Operands& o : set) o.poison();
      },
      [&](int) {
        for (const Operands& o : set)
          onednn().run(product.get(), o.matrices.a.data, o.matrices.b.data, o.matrices.c.data);
      },
      [&](int) {
        for (const Operands& o : set) right &= o.right(in_bf16(p), 1);
      });
  return right ? flops_of_run(p, set.size()) / best : 0;
}

// What oneDNN would multiply: where our product rounds an f32 input on the way in, its gets bf16.
MatrixProduct all_bf16(MatrixProduct p) {
  p.a = p.b = DType::bf16;
  return p;
}

}  // namespace

std::string described(const MatrixProduct& p) {
  constexpr const char* kLayouts[] = {"nt", "nn", "tn"};
  std::string text = p.in_cache || p.count == 1 ? "" : std::to_string(p.count) + " of ";
  text += std::to_string(p.m) + " x " + std::to_string(p.n) + " x " + std::to_string(p.k) + " " +
          kLayouts[size_t(p.layout)] + " " + name_of(p.a);
  if (p.b != p.a) text += std::string("*") + name_of(p.b);
  if (p.c != p.a) text += std::string("->") + name_of(p.c);
  return text + (p.adds ? " added" : "") + (p.in_cache ? " in cache" : "");
}

ProductRates::ProductRates(Threads& threads, double seconds, int64_t memory)
    : threads_(threads), seconds_(seconds), pools_(new Pools{.inputs = {}, .outputs = {}, .least = memory}) {}

ProductRates::ProductRates(Threads& threads, DataSheet sheet) : threads_(threads), seconds_(0), sheet_(sheet) {}

ProductRates::~ProductRates() = default;

const ProductRate& ProductRates::of(const MatrixProduct& p) {
  const auto [at, fresh] = rates_.try_emplace(described(p));
  ProductRate& rate = at->second;
  const auto known = [](DType type) { return type == DType::f32 || type == DType::bf16; };
  if (!fresh || !known(p.a) || !known(p.b) || !known(p.c) || std::min({p.m, p.n, p.k}) < 1) return rate;
  if (sheet_) return rate.ours = in_bf16(p) ? sheet_->bf16 : sheet_->f32, rate;
  const auto next = [&] { return pools_->next(threads_, p); };
  rate.ours = in_bf16(p) ? our_rate<bf16>(threads_, p, seconds_, next) : our_rate<float>(threads_, p, seconds_, next);
  const MatrixProduct theirs = in_bf16(p) ? all_bf16(p) : p;
  rate.onednn = onednn_rate(threads_, theirs, seconds_, [&] { return pools_->next(threads_, theirs); });
  return rate;
}

double ProductRates::peak(const MatrixProduct& p) {
  return of({kPeakSide, kPeakSide, kPeakSide, ProductLayout::nt, p.b, p.b, p.b}).best();
}

}  // namespace fulgur::bench
