// Tensors as windows, random numbers by their published vectors, threads that run every item once, errors and their
// codes.
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>

#include "base/error.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/tensor.h"
#include "base/threads.h"

namespace fulgur {
namespace {

struct Numbers {
  std::vector<float> values;
  explicit Numbers(size_t n) : values(n) { std::iota(values.begin(), values.end(), 0.0f); }
  Tensor tensor(std::initializer_list<int64_t> shape) {
    return contiguous(reinterpret_cast<std::byte*>(values.data()), DType::f32, {}, shape);
  }
};

TEST(Tensor, slices_merges_and_splits_look_at_the_same_elements) {
  Numbers n(2 * 3 * 4);
  const Tensor t = n.tensor({2, 3, 4});
  EXPECT_TRUE(t.dense());
  EXPECT_EQ((t.view<float, 3>()(1, 2, 3)), 23);
  const Tensor middle = t.slice(1, 1, 3);
  EXPECT_FALSE(middle.dense());
  EXPECT_EQ((middle.view<float, 3>()(1, 0, 2)), 18);
  EXPECT_EQ((t.at(1).view<float, 2>()(2, 0)), 20);
  EXPECT_TRUE(t.merged(1).is(DType::f32, {2, 12}));
  EXPECT_TRUE(t.merged(1).split({3, 4}).same_shape(t));
  EXPECT_EQ((t.rows(1, 2).merged(0).elements<float>()[0]), 12);
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_FALSE(bool(Tensor{}));
}

TEST(Tensor, broken_promises) {
  Numbers n(12);
  const Tensor t = n.tensor({3, 4});
  EXPECT_EXIT((void)t.rows(2, 4), testing::ExitedWithCode(kExitBrokenPromise), "slice lies inside");
  EXPECT_EXIT((void)t.slice(1, 0, 2).merged(0), testing::ExitedWithCode(kExitBrokenPromise), "end to end");
  EXPECT_EXIT((void)t.split({3, 2}), testing::ExitedWithCode(kExitBrokenPromise), "multiply to its size");
  EXPECT_EXIT((void)(t.view<double, 2>()), testing::ExitedWithCode(kExitBrokenPromise), "element type");
}

TEST(Tensor, bf16_rounds_to_nearest_even_and_keeps_nan) {
  EXPECT_EQ(float(bf16(1.0f)), 1.0f);
  EXPECT_EQ(bf16(__builtin_bit_cast(float, 0x3f808000u)).bits, 0x3f80);  // half way: to even
  EXPECT_EQ(bf16(__builtin_bit_cast(float, 0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(bf16(__builtin_bit_cast(float, 0x3f808001u)).bits, 0x3f81);
  EXPECT_TRUE(float(bf16(__builtin_bit_cast(float, 0x7f800001u))) !=
              float(bf16(__builtin_bit_cast(float, 0x7f800001u))));
}

// Known answers of Random123's philox4x32-10.
TEST(Random, philox_known_answers) {
  EXPECT_EQ(philox(0, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_EQ(fnv1a64(""), 0xcbf29ce484222325u);
  EXPECT_EQ(fnv1a64("a"), 0xaf63dc4c8601ec8cu);
}

TEST(Threads, every_item_runs_once) {
  for (const int count : {1, 2, 5}) {
    Threads threads(count);
    for (const int64_t items : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(items));
      threads.for_each(items, [&](int64_t i) { ++seen[size_t(i)]; });
      for (const auto& s : seen) EXPECT_EQ(s.load(), 1);
      std::atomic<int64_t> sum = 0;
      threads.for_ranges(items, 7, [&](int64_t begin, int64_t end) { sum += end - begin; });
      EXPECT_EQ(sum.load(), items);
    }
  }
}

TEST(Error, codes_of_the_contract) {
  EXPECT_EQ(exit_code(ErrorKind::invalid_input), 2);
  EXPECT_EQ(exit_code(ErrorKind::unsupported), 2);
  EXPECT_EQ(exit_code(ErrorKind::not_found), 3);
  EXPECT_EQ(exit_code(ErrorKind::corrupt_file), 3);
  EXPECT_EQ(exit_code(ErrorKind::out_of_memory), 4);
  EXPECT_EQ(exit_code(ErrorKind::device), 5);
  EXPECT_THROW(fail(ErrorKind::device, "x"), Error);
}

TEST(Progress, short_forms) {
  EXPECT_EQ(short_number(7), "7");
  EXPECT_EQ(short_number(1234), "1.23 k");
  EXPECT_EQ(short_number(45600000), "45.6 M");
  EXPECT_EQ(short_time(45), "45 s");
  EXPECT_EQ(short_time(185), "3 min 05 s");
  EXPECT_EQ(short_time(7620), "2 h 07 min");
}

TEST(Progress, time_left_counts_units_where_they_are_not_alike) {
  EXPECT_EQ(seconds_left(10, 5, 20, 500, {}), 40);
  EXPECT_EQ(seconds_left(10, 5, 20, 500, 9000), 180) << "later steps are larger";
  EXPECT_EQ(seconds_left(10, 0, 20, 0, 9000), std::nullopt);
}

}  // namespace
}  // namespace fulgur
