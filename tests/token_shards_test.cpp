// Prepared data is read back as it was written, and what does not fit its index is refused by name.
#include "data/token_shards.h"

#include <gtest/gtest.h>

#include "files/digest.h"
#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;

ShardDocuments numbered(int64_t documents, int32_t first) {
  ShardDocuments d;
  for (int64_t i = 0; i < documents; ++i) {
    d.tokens.push_back(90);
    for (int64_t t = 0; t < i % 4; ++t) d.tokens.push_back(first++ % 90);
    d.tokens.push_back(91);
    d.begin.push_back(int64_t(d.tokens.size()));
    d.bytes.push_back(10 + i), d.origin.push_back({i % 2, 7 * i}), d.label.push_back(int32_t(i % 3));
  }
  return d;
}

TokenIndex framed_index() {
  return {.vocab_size = 92,
          .tokenizer_digest = "17",
          .begin_of_sentence = 90,
          .end_of_document = 91,
          .inputs = {{"en", "a.txt", "00", 5}, {"en", "b.txt", "01", 6}},
          .sources = {}};
}

TokenIndex write_sample(const fs::path& folder) {
  fs::create_directories(folder);
  TokenIndex index = framed_index();
  index.sources = {
      {"en",
       0.75,
       {write_token_shard(folder, "en", 0, numbered(5, 0)), write_token_shard(folder, "en", 1, numbered(8, 3))}},
      {"zh", 0.25, {write_token_shard(folder, "zh", 0, numbered(1, 0))}}};
  write_token_index(folder, index);
  return index;
}

TEST(TokenShards, are_read_as_they_were_written) {
  const Scratch scratch;
  const TokenIndex index = write_sample(scratch / "p");
  const TokenShards shards = TokenShards::open(scratch / "p");
  shards.check();
  ASSERT_EQ(shards.sources().size(), 2u);
  EXPECT_EQ(shards.index().fingerprint(), index.fingerprint());
  const TokenShards::Source& en = shards.source("en");
  EXPECT_EQ(en.weight(), 0.75);
  ASSERT_EQ(en.documents(), 13);
  for (int64_t i = 0; i < 13; ++i) {
    const ShardDocuments want = numbered(8, i < 5 ? 0 : 3);
    const size_t at = size_t(i < 5 ? i : i - 5);
    const std::vector<int32_t> tokens(want.tokens.begin() + want.begin[at], want.tokens.begin() + want.begin[at + 1]);
    EXPECT_TRUE(std::ranges::equal(en.document(i), tokens)) << i;
    EXPECT_EQ(en.bytes(i), want.bytes[at]);
    EXPECT_EQ(en.origin(i), want.origin[at]);
    EXPECT_EQ(en.label(i), want.label[at]);
  }
  expect_error(ErrorKind::invalid_input, {"`fr`", "en, zh"}, [&] { shards.source("fr"); });
}

TEST(TokenShards, damage_is_named) {
  const Scratch scratch;
  const fs::path folder = scratch / "p", index = folder / "index.json", shard = folder / "en-00001.safetensors";
  write_sample(folder);
  const std::string text = slurp(index), bytes = slurp(shard);
  const auto refused = [&](const std::string& from, const std::string& to, const std::vector<std::string>& words) {
    spill(index, replaced(text, from, to));
    expect_error(ErrorKind::corrupt_file, words, [&] { TokenShards::open(folder); });
    spill(index, text);
  };
  refused("\"vocab_size\": 92", "\"vocab_size\": -1", {"vocab_size is \"-1\""});
  refused("\"vocab_size\": 92", "\"vocab_size\": 93", {"fingerprint"});
  refused("tokens 1", "tokens 2", {"format"});
  refused("en-00001.safetensors", "../00001.safetensors", {"file is"});
  refused("\"documents\": 13", "\"documents\": 12", {"documents is 12", "13"});
  refused("\"name\": \"zh\"", "\"name\": \"../zh\"", {"name"});
  refused("\"weight\": 0.75", "\"weight\": 0", {"weight"});
  fs::remove(index);
  expect_error(ErrorKind::not_found, {"index.json", "data prepare"}, [&] { TokenShards::open(folder); });
  spill(index, text);
  spill(shard, slurp(folder / "en-00000.safetensors"));
  expect_error(ErrorKind::corrupt_file, {"en-00001", "index.json expects"}, [&] { TokenShards::open(folder); });
  std::string changed = bytes;
  changed.back() = char(changed.back() ^ 1);
  spill(shard, changed);
  expect_error(ErrorKind::corrupt_file, {"en-00001", "digest"}, [&] { TokenShards::open(folder).check(); });
  fs::remove(shard);
  expect_error(ErrorKind::not_found, {"en-00001"}, [&] { TokenShards::open(folder); });
}

// A shard whose digest is right and whose contents are not.
TEST(TokenShards, contents_are_judged) {
  const Scratch scratch;
  const auto refused = [&](const auto& spoil, const std::vector<std::string>& words) {
    ShardDocuments d = numbered(5, 0);
    spoil(d);
    const fs::path folder = scratch / "p";
    fs::create_directories(folder);
    TokenIndex index = framed_index();
    index.sources = {{"en", 1, {write_token_shard(folder, "en", 0, d)}}};
    write_token_index(folder, index);
    expect_error(ErrorKind::corrupt_file, words, [&] { TokenShards::open(folder).check(); });
  };
  refused([](ShardDocuments& d) { d.begin[2] = d.begin[1]; }, {"`begin`"});
  refused([](ShardDocuments& d) { d.begin[0] = 1; }, {"`begin`"});
  refused([](ShardDocuments& d) { d.bytes[0] = -1; }, {"`bytes`"});
  refused([](ShardDocuments& d) { d.tokens[4] = 92; }, {"the token 92"});
  refused([](ShardDocuments& d) { d.tokens[0] = 1; }, {"document 0", "frame"});
  refused([](ShardDocuments& d) { d.origin[3] = {2, 0}; }, {"document 3", "input"});
}

}  // namespace
}  // namespace fulgur::tests
