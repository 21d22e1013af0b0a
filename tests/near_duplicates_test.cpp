// Near duplicates: shingles are what they are said to be, signatures estimate the Jaccard index, pairs above the
// threshold are found and others kept, whatever the memory and the threads.
#include "data/near_duplicates.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "data/min_hash.h"
#include "data/shingles.h"
#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

using Options = NearDuplicates::Options;
using Set = std::vector<uint64_t>;

TEST(Shingles, five_words_whatever_their_case_and_what_separates_them) {
  const Set want = shingle_hashes("one two three four five six");
  EXPECT_EQ(want.size(), 2u);
  EXPECT_EQ(shingle_hashes("  One, TWO -- three\nfour\tfive... (six)!"), want);
  EXPECT_EQ(shingle_hashes("One \xff two three\xe4\xb8 four five six \xe4"), want);  // broken bytes separate
  EXPECT_NE(shingle_hashes("one two three four five 6"), want);
  EXPECT_EQ(shingle_hashes("one two three four five 6")[0], want[0]);
  EXPECT_NE(shingle_hashes("two one three four five six")[0], want[0]);
  EXPECT_EQ(shingle_hashes("Żółta Ähre été ёлка 한국어").size(), 1u);  // letters of other scripts make words
}

TEST(Shingles, eight_characters_where_no_spaces_are_written) {
  const Set want = shingle_hashes("天地玄黄宇宙洪荒日月");
  EXPECT_EQ(want.size(), 3u);
  EXPECT_EQ(shingle_hashes("天地玄黄，宇宙 洪荒。日月"), want);
  EXPECT_NE(shingle_hashes("天地玄黄宇宙洪荒日")[0], shingle_hashes("地玄黄宇宙洪荒日月")[0]);
  EXPECT_EQ(shingle_hashes("the day of 天地玄黄宇宙洪荒 is come").size(),
            6u);  // from "the" to 玄, which has "is" and "come"
}

TEST(Shingles, a_short_text_is_one) {
  EXPECT_EQ(shingle_hashes("").size(), 1u);
  EXPECT_EQ(shingle_hashes("one two three four").size(), 1u);
  EXPECT_NE(shingle_hashes("one two three four"), shingle_hashes("one two three five"));
  EXPECT_NE(shingle_hashes("one"), shingle_hashes(""));
}

// Two sets of `size` elements that share as many as make their Jaccard index the nearest possible to `jaccard`.
std::pair<Set, Set> sets_with(double jaccard, size_t size, uint64_t which) {
  const auto shared = size_t(std::lround(double(size) * 2 * jaccard / (1 + jaccard)));
  std::pair<Set, Set> sets;
  for (size_t i = 0; i < size; ++i) {
    const PhiloxBlock a = philox(which, i, 1), b = philox(which, i, 2);
    sets.first.push_back(uint64_t(a[0]) << 32 | a[1]);
    sets.second.push_back(i < shared ? sets.first.back() : uint64_t(b[0]) << 32 | b[1]);
  }
  return sets;
}

double jaccard_of(size_t size, double wanted) {
  const double shared = double(std::lround(double(size) * 2 * wanted / (1 + wanted)));
  return shared / (2 * double(size) - shared);
}

TEST(MinHash, estimates_the_jaccard_index_of_small_and_large_sets) {
  for (const size_t size : {1, 3, 24, 180, 4000}) {
    for (const double wanted : {0.0, 0.5, 0.8, 1.0}) {
      const double jaccard = jaccard_of(size, wanted);
      const uint64_t pairs = size > 1000 ? 40 : 200;
      double sum = 0, squares = 0;
      for (uint64_t pair = 0; pair < pairs; ++pair) {
        const auto [a, b] = sets_with(wanted, size, pair);
        const std::vector<uint32_t> x = min_hashes(a, 128, 7), y = min_hashes(b, 128, 7);
        double equal = 0;
        for (size_t i = 0; i < 128; ++i) equal += x[i] == y[i];
        sum += equal / 128, squares += (equal / 128 - jaccard) * (equal / 128 - jaccard);
      }
      const double deviation = std::sqrt(jaccard * (1 - jaccard) / 128);  // of 128 independent hashes
      EXPECT_NEAR(sum / double(pairs), jaccard, 4 * deviation / std::sqrt(double(pairs)) + 1e-12) << size;
      EXPECT_LE(std::sqrt(squares / double(pairs)), 1.25 * deviation + 1e-12) << size << " at " << wanted;
    }
  }
}

TEST(MinHash, order_and_repetition_change_nothing) {
  const auto [a, b] = sets_with(0.5, 50, 3);
  Set other(a.rbegin(), a.rend());
  other.insert(other.end(), a.begin(), a.begin() + 20);
  EXPECT_EQ(min_hashes(other, 128, 1), min_hashes(a, 128, 1));
  EXPECT_NE(min_hashes(a, 128, 2), min_hashes(a, 128, 1));
}

TEST(MinHash, banding_follows_from_threshold_and_hashes) {
  const Banding usual = banding_for(0.8, 128);
  EXPECT_EQ(std::make_tuple(usual.bands, usual.rows, usual.matches), std::make_tuple(21, 6, 94));
  const Banding exact = banding_for(1, 64);
  EXPECT_EQ(std::make_tuple(exact.bands, exact.rows, exact.matches), std::make_tuple(1, 64, 64));
}

using Signatures = std::vector<std::vector<uint32_t>>;

std::vector<uint64_t> dropped_of(const Signatures& signatures, const Options& options, int threads) {
  const Scratch scratch;
  std::vector<uint64_t> dropped;
  {
    NearDuplicates near(scratch.path(), options, threads);
    for (size_t i = 0; i < signatures.size(); ++i) near.add(10 * i + 5, signatures[i]);
    int64_t heard = 0;
    dropped = near.duplicates([&](int64_t done, int64_t total) {
      EXPECT_LE(heard, done);
      EXPECT_EQ(total, int64_t(signatures.size()) * banding_for(options.jaccard, options.hashes).bands);
      heard = done;
    });
    EXPECT_EQ(heard, int64_t(signatures.size()) * banding_for(options.jaccard, options.hashes).bands);
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  return dropped;
}

Signatures pairs_at(double jaccard, size_t size, uint64_t pairs, const Options& options) {
  Signatures all;
  for (uint64_t pair = 0; pair < pairs; ++pair) {
    const auto [a, b] = sets_with(jaccard, size, pair);
    all.push_back(min_hashes(a, options.hashes, options.seed)),
        all.push_back(min_hashes(b, options.hashes, options.seed));
  }
  return all;
}

TEST(NearDuplicates, pairs_above_the_threshold_are_found_and_others_kept) {
  const Options options;
  for (const size_t size : {30, 200}) {
    const auto found = [&](double jaccard) {
      return double(dropped_of(pairs_at(jaccard, size, 1000, options), options, 2).size()) / 1000;
    };
    EXPECT_GE(found(0.8), 0.95) << size;
    EXPECT_GE(found(0.9), 0.999) << size;
    EXPECT_EQ(found(1), 1) << size;
    EXPECT_LE(found(0.5), 0.001) << size;
    EXPECT_EQ(found(0.3), 0) << size;
  }
}

// Pairs of many kinds among each other, families of equals, and a template that fills whole buckets.
Signatures mixture(const Options& options) {
  Signatures all;
  for (const double jaccard : {0.2, 0.6, 0.7, 0.8, 0.9})
    for (auto& signature : pairs_at(jaccard, 60, 60, options)) all.push_back(std::move(signature));
  for (uint64_t i = 0; i < 300; ++i) {
    Set set = sets_with(0, 100, 1000).first;
    for (size_t k = 0; k < 30 + i % 20; ++k) set[k] += i / 3 + 1;  // each three times; others at 0.34 to 0.54
    all.push_back(min_hashes(set, options.hashes, options.seed));
  }
  return all;
}

TEST(NearDuplicates, threads_and_memory_change_nothing) {
  Options options;
  const Signatures signatures = mixture(options);
  const std::vector<uint64_t> want = dropped_of(signatures, options, 1);
  EXPECT_GT(want.size(), 250u);
  for (const int threads : {1, 2, 3}) {
    for (const int64_t memory : {int64_t(4'000), int64_t(40'000), options.memory_bytes}) {
      options.memory_bytes = memory;
      EXPECT_EQ(dropped_of(signatures, options, threads), want) << threads << " threads, " << memory << " bytes";
    }
    options.memory_bytes = Options().memory_bytes;
  }
}

TEST(NearDuplicates, the_lowest_of_a_cluster_stays) {
  const Options options;
  const auto [a, b] = sets_with(0, 100, 1);
  Set near_a = a, nearer_b = b;
  near_a[0] = 1, nearer_b[5] = 1;
  Signatures signatures;
  for (const Set& set : {a, b, near_a, near_a, nearer_b, a}) signatures.push_back(min_hashes(set, 128, 0));
  EXPECT_EQ(dropped_of(signatures, options, 2), (std::vector<uint64_t>{25, 35, 45, 55}));
  EXPECT_EQ(dropped_of(Signatures(500, signatures[0]), options, 2).size(), 499u);
  EXPECT_TRUE(dropped_of({}, options, 2).empty());
}

// All agree in 15 of 21 bands and no further one, where 90 equal hashes are too few; every fiftieth is a copy.
TEST(NearDuplicates, a_bucket_of_many_clusters) {
  Signatures signatures(150, std::vector<uint32_t>(128, 7));
  std::vector<uint64_t> copies;
  for (uint32_t i = 0; i < 150; ++i) {
    for (uint32_t row = 90; row < 128; ++row) signatures[i][row] = row % 6 == 5 ? 1000 + i : 100 + i % 50;
    if (i >= 50) copies.push_back(10 * i + 5);
  }
  EXPECT_EQ(dropped_of(signatures, Options(), 2), copies);
}

TEST(NearDuplicates, texts_with_few_edits_are_found) {
  const Options options;
  std::string english, edited;
  for (int i = 0; i < 200; ++i) {
    english += "word" + std::to_string(i * i % 997) + " ";
    edited += i % 97 == 50 ? "Other, " : "Word" + std::to_string(i * i % 997) + "\n";
  }
  const std::string chinese =
      "天下大势分久必合合久必分周末七国分争并入于秦及秦灭之后楚汉分争又并入于汉汉朝自高祖斩白蛇而起义";
  const auto c = NearDuplicates::signature(chinese + "一统天下", options);
  const auto d = NearDuplicates::signature("，" + chinese + "。", options);
  EXPECT_EQ(dropped_of({c, d}, options, 1), (std::vector<uint64_t>{15}));
  const std::vector<uint32_t> a = NearDuplicates::signature(english, options);
  EXPECT_EQ(dropped_of({a, NearDuplicates::signature(edited, options)}, options, 1), (std::vector<uint64_t>{15}));
  EXPECT_TRUE(dropped_of({a, NearDuplicates::signature("something else", options)}, options, 1).empty());
}

TEST(NearDuplicates, options_out_of_range) {
  const Scratch scratch;
  const auto refused = [&](const Options& options, const std::string& word) {
    expect_error(ErrorKind::invalid_input, {"near duplicates", word},
                 [&] { NearDuplicates(scratch.path(), options, 1); });
  };
  refused({.jaccard = 0}, "jaccard");
  refused({.jaccard = 1.5}, "jaccard");
  refused({.hashes = 4}, "hashes");
  refused({.memory_bytes = 0}, "memory_bytes");
  expect_error(ErrorKind::not_found, {"nowhere"}, [&] { NearDuplicates(scratch / "nowhere", Options(), 1); });
}

}  // namespace
}  // namespace fulgur::tests
