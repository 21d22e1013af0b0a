// gated_rms_norm, its products and its gradient against an f64 oracle and central differences, whole and split in two
// ranks of heads.
#include "ops/gated_rms_norm.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kEps = 1e-6;

// Of sums kept in a type. What is stored as bf16 was rounded once: half a unit in the last of 8 bits.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 2e-6 : 4e-3; }

struct Pass {
  Bench bench{size_t(1) << 24};
  int64_t rows, heads, width;
  Tensor x, gate, weight, dy, squares, y, inverse, products, dx, dgate, dweight;

  Pass(DType type, int64_t rows, int64_t heads, int64_t head_width)
      : rows(rows), heads(heads), width(heads * head_width) {
    x = bench.random(type, {rows, width}, 1, 2, 0.3), gate = bench.random(type, {rows, width}, 2, 3);
    weight = bench.random(type, {width}, 3, 0.5, 1), dy = bench.random(type, {rows, width}, 4);
    squares = bench.empty(wide(type), {heads, rows}), inverse = bench.empty(wide(type), {rows});
    products = bench.empty(wide(type), {heads, rows}), y = bench.empty(type, {rows, width});
    dx = bench.empty(type, {rows, width}), dgate = bench.empty(type, {rows, width});
    dweight = bench.random(wide(type), {width}, 5);
  }
  GatedRmsNorm operands() const {
    return {.y = y,
            .x = x,
            .gate = gate,
            .weight = weight,
            .squares = squares,
            .whole_width = width,
            .eps = kEps,
            .inverse_rms = inverse};
  }
  void forward(Stream& stream) const {
    const int64_t head_width = width / heads;
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t row = 0; row < rows; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < head_width; ++i) sum += std::pow(get(x, row * width + head * head_width + i), 2);
        set(squares, head * rows + row, sum);
      }
    gated_rms_norm(stream, operands());
  }
  // What one rank with heads [first, last) does with rows [begin, end).
  GatedRmsNormBackward back(int64_t first, int64_t last, int64_t begin, int64_t end) const {
    const int64_t from = first * width / heads, to = last * width / heads;
    const auto part = [&](const Tensor& t) { return t.rows(begin, end).slice(1, from, to); };
    return {.dx = part(dx),
            .dgate = part(dgate),
            .dweight = dweight.slice(0, from, to),
            .dy = part(dy),
            .x = part(x),
            .gate = part(gate),
            .weight = weight.slice(0, from, to),
            .inverse_rms = inverse.rows(begin, end),
            .products = products.slice(1, begin, end),
            .whole_width = width};
  }
  void backward(Stream& stream, int64_t first, int64_t last, int64_t begin, int64_t end) const {
    gated_rms_norm_backward(stream, back(first, last, begin, end));
  }
  GatedRmsNormProducts between(int64_t first, int64_t last) const {
    const int64_t from = first * width / heads, to = last * width / heads;
    return {.products = products.rows(first, last),
            .dy = dy.slice(1, from, to),
            .x = x.slice(1, from, to),
            .gate = gate.slice(1, from, to),
            .weight = weight.slice(0, from, to)};
  }
  void multiply(Stream& stream, int64_t first, int64_t last) const {
    gated_rms_norm_products(stream, between(first, last));
  }
  void run(int threads) const {
    CaseStream stream({}, threads);
    forward(stream), multiply(stream, 0, heads), backward(stream, 0, heads, 0, rows);
  }
};

struct Oracle {
  Tensor y, products, dx, dgate, dweight;
};

Oracle oracle_of(Pass& p) {
  Bench& bench = p.bench;
  Oracle o{bench.empty(DType::f64, {p.rows, p.width}), bench.zeros(DType::f64, {p.heads, p.rows}),
           bench.empty(DType::f64, {p.rows, p.width}), bench.empty(DType::f64, {p.rows, p.width}),
           bench.converted(p.dweight, DType::f64)};
  for (int64_t row = 0; row < p.rows; ++row) {
    double squares = 0, along = 0;
    for (int64_t c = 0; c < p.width; ++c) squares += std::pow(get(p.x, row * p.width + c), 2);
    const double r = 1 / std::sqrt(squares / double(p.width) + kEps);
    for (int64_t c = 0; c < p.width; ++c) {
      const int64_t i = row * p.width + c, product = c / (p.width / p.heads) * p.rows + row;
      const double s = 1 / (1 + std::exp(-get(p.gate, i))), dy = get(p.dy, i), x = get(p.x, i), w = get(p.weight, c);
      set(o.y, i, s * x * r * w);
      set(o.products, product, get(o.products, product) + dy * s * w * x);
      set(o.dgate, i, dy * x * r * w * s * (1 - s));
      set(o.dweight, c, get(o.dweight, c) + dy * s * x * r);
      along += dy * s * w * x;
    }
    for (int64_t c = 0; c < p.width; ++c) {
      const int64_t i = row * p.width + c;
      const double s = 1 / (1 + std::exp(-get(p.gate, i)));
      set(o.dx, i, r * get(p.dy, i) * s * get(p.weight, c) - get(p.x, i) * r * r * r * along / double(p.width));
    }
  }
  return o;
}

TEST(GatedRmsNorm, EqualsTheOracle) {
  // Whole vectors, many heads, rows of several blocks: paths of the CUDA twin.
  constexpr int64_t kShapes[][3] = {{1, 3, 1},    {7, 3, 1},    {65, 3, 1},   {1, 3, 17},   {7, 3, 17},
                                    {65, 3, 17},  {1, 3, 130},  {7, 3, 130},  {65, 3, 130}, {1, 3, 299},
                                    {7, 3, 299},  {65, 3, 299}, {35, 4, 128}, {9, 3, 1024}, {33, 67, 8},
                                    {40, 70, 32}, {17, 5, 64},  {3, 16, 136}, {4200, 2, 4}};
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const auto [rows, heads, head_width] : kShapes) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << heads << " x " << head_width);
      Pass p(type, rows, heads, head_width);
      const Oracle o = oracle_of(p);
      p.run(1);
      EXPECT_LE(relative_gap(p.y, o.y), bound(type));
      EXPECT_LE(relative_gap(p.products, o.products), bound(wide(type)));
      EXPECT_LE(relative_gap(p.dx, o.dx), bound(type));
      EXPECT_LE(relative_gap(p.dgate, o.dgate), bound(type));
      EXPECT_LE(relative_gap(p.dweight, o.dweight), (rows > 1000 ? 3 : 1) * bound(wide(type)));  // chains of rows
    }
}

TEST(GatedRmsNorm, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 3, 3, 7);
  std::memset(p.dweight.data, 0, size_t(p.dweight.bytes()));
  p.run(1);
  CaseStream stream;
  const auto loss = [&] {
    p.forward(stream);
    return inner(p.y, p.dy);
  };
  EXPECT_LE(gradient_gap(loss, p.x, p.dx), 1e-7);
  EXPECT_LE(gradient_gap(loss, p.gate, p.dgate), 1e-7);
  EXPECT_LE(gradient_gap(loss, p.weight, p.dweight), 1e-7);
}

TEST(GatedRmsNorm, ThreadsDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass one(type, 65, 3, 130), three(type, 65, 3, 130);
    one.run(1), three.run(3);
    EXPECT_TRUE(same_bits(one.y, three.y) && same_bits(one.inverse, three.inverse));
    EXPECT_TRUE(same_bits(one.products, three.products) && same_bits(one.dweight, three.dweight));
    EXPECT_TRUE(same_bits(one.dx, three.dx) && same_bits(one.dgate, three.dgate));
  }
}

TEST(GatedRmsNorm, GradientsMayTakeThePlacesOfTheirOperands) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const int64_t head_width : {130, 128}) {
      const Pass apart(type, 65, 3, head_width);
      Pass in_place(type, 65, 3, head_width);
      in_place.dx = in_place.x, in_place.dgate = in_place.gate;
      apart.run(1), in_place.run(3);
      EXPECT_TRUE(same_bits(apart.dx, in_place.dx) && same_bits(apart.dgate, in_place.dgate));
      EXPECT_TRUE(same_bits(apart.dweight, in_place.dweight));
    }
}

TEST(GatedRmsNorm, Bf16IsF32RoundedOnce) {
  for (const int64_t head_width : {130, 132, 1024}) {
    Pass p(DType::bf16, 65, 3, head_width);
    p.run(1);
    CaseStream stream;
    expect_rounded_once(p.bench, stream, gated_rms_norm, p.operands());
    expect_rounded_once(p.bench, stream, gated_rms_norm_products, p.between(0, 3));
    expect_rounded_once(p.bench, stream, gated_rms_norm_backward, p.back(0, 3, 0, 65));
  }
}

TEST(GatedRmsNorm, PartsAccumulateToTheWhole) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t cut : {30, 32}) {  // CUDA adds pieces of 32 rows
      const Pass whole(type, 65, 3, 130), parts(type, 65, 3, 130);
      CaseStream stream({}, 2);
      whole.run(2);
      parts.forward(stream), parts.multiply(stream, 0, 3);
      parts.backward(stream, 0, 3, 0, cut), parts.backward(stream, 0, 3, cut, 65);
      EXPECT_TRUE(same_bits(whole.dx, parts.dx) && same_sums(whole.dweight, parts.dweight));
      EXPECT_TRUE(cut != 32 || same_bits(whole.dweight, parts.dweight));
    }
}

TEST(GatedRmsNorm, RanksOfHeadsEqualOne) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass whole(type, 7, 4, 17), split(type, 7, 4, 17);
    CaseStream stream({}, 3);
    whole.run(1);
    split.forward(stream);
    split.multiply(stream, 0, 3), split.multiply(stream, 3, 4);
    split.backward(stream, 0, 3, 0, 7), split.backward(stream, 3, 4, 0, 7);
    EXPECT_TRUE(same_bits(whole.products, split.products) && same_bits(whole.dx, split.dx));
    EXPECT_TRUE(same_bits(whole.dgate, split.dgate) && same_bits(whole.dweight, split.dweight));
  }
}

TEST(GatedRmsNorm, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 3, 5);
  CaseStream stream;
  GatedRmsNorm op{.y = p.y,
                  .x = p.x,
                  .gate = p.gate,
                  .weight = p.weight,
                  .squares = p.squares,
                  .whole_width = p.width,
                  .eps = kEps};
  op.squares = p.squares.slice(1, 0, 6);
  EXPECT_BROKEN(gated_rms_norm(stream, op), "one sum of squares per head and row");
  op.squares = p.bench.empty(DType::f64, {3, 7});
  EXPECT_BROKEN(gated_rms_norm(stream, op), "one sum of squares per head and row");
  EXPECT_BROKEN(
      gated_rms_norm_products(
          stream,
          {.products = p.bench.empty(DType::f32, {2, 7}), .dy = p.dy, .x = p.x, .gate = p.gate, .weight = p.weight}),
      "one product per head and row");
}

}  // namespace
}  // namespace fulgur
