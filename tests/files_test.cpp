// Bytes on disk: safetensors files and folders round trip, and every damage is refused under the file's and tensor's
// name.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "files/digest.h"
#include "files/folder_lock.h"
#include "files/json_file.h"
#include "files/safetensors.h"
#include "tests/scratch.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using tests::expect_error;
using tests::raw_safetensors;
using tests::Scratch;
using tests::slurp;
using tests::spill;

TensorToWrite bytes_named(const std::string& name, DType type, const std::vector<int64_t>& shape, uint64_t seed) {
  int64_t bytes = byte_size(type);
  for (const int64_t dim : shape) bytes *= dim;
  return {name, type, shape, [=](std::byte* out) {
            for (int64_t i = 0; i < bytes; ++i) out[i] = std::byte(philox(seed, uint64_t(i), 0)[0] & 0xff);
          }};
}

std::string bytes_of(const TensorToWrite& tensor) {
  int64_t bytes = byte_size(tensor.dtype);
  for (const int64_t dim : tensor.shape) bytes *= dim;
  std::string text(size_t(bytes), '\0');
  tensor.produce(reinterpret_cast<std::byte*>(text.data()));
  return text;
}

std::string bytes_of(const StoredTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

std::vector<TensorToWrite> one_of_each_type() {
  return {bytes_named("u8", DType::u8, {3}, 1),       bytes_named("f64", DType::f64, {2, 3}, 2),
          bytes_named("f32", DType::f32, {5}, 3),     bytes_named("bf16", DType::bf16, {1, 7}, 4),
          bytes_named("f16", DType::f16, {3, 1}, 5),  bytes_named("i8", DType::i8, {2, 1, 2, 1, 2, 1}, 6),
          bytes_named("i32", DType::i32, {4}, 7),     bytes_named("i64", DType::i64, {}, 8),
          bytes_named("empty", DType::f32, {0, 9}, 9)};
}

TEST(Safetensors, RoundTripsEveryTypeRankAndName) {
  const Scratch scratch;
  const auto tensors = one_of_each_type();
  const std::string digest = write_safetensors(scratch / "a.safetensors", tensors);
  EXPECT_EQ(digest, digest_of_file(scratch / "a.safetensors"));
  const Safetensors file = Safetensors::open(scratch / "a.safetensors");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorToWrite& t : tensors) {
    const StoredTensor& stored = file.at(t.name);
    EXPECT_EQ(stored.dtype, t.dtype) << t.name;
    EXPECT_EQ(stored.shape, t.shape) << t.name;
    EXPECT_EQ(bytes_of(stored), bytes_of(t)) << t.name;
  }
  EXPECT_EQ(file.find("none"), nullptr);
  expect_error(ErrorKind::corrupt_file, {"a.safetensors", "\"none\"", "missing"}, [&] { file.at("none"); });
  const auto [header, data] = tests::split_safetensors(slurp(scratch / "a.safetensors"));
  EXPECT_EQ(nlohmann::json::parse(header)["__metadata__"], nlohmann::json({{"format", "pt"}}));
  EXPECT_FALSE(fs::exists(scratch / "a.safetensors.tmp"));
}

struct Damage {
  const char* name;
  std::string header, data;
  std::vector<std::string> words;
};

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::vector<Damage> damages() {
  const std::string eight(8, '\1'), good = entry("\"F32\"", "[2]", "[0,8]");
  return {
      {"not json", "{\"w\": nonsense", eight, {"JSON"}},
      {"a zero byte", std::string("{}\0{", 4), "", {"JSON", "byte 2"}},
      {"bad utf-8", "{\"w\xff\":" + good + "}", eight, {"JSON"}},
      {"no object", "[1]", eight, {"{"}},
      {"nested deeply", "{\"w\":" + std::string(200000, '['), "", {"nested"}},
      {"spaces before", " {\"w\":" + good + "}", eight, {"{"}},
      {"same name twice", "{\"w\":" + good + ",\"w\":" + good + "}", eight, {"\"w\"", "twice"}},
      {"same key twice",
       "{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
       eight,
       {"\"dtype\"", "twice"}},
      {"unknown type", "{\"w\":" + entry("\"F31\"", "[2]", "[0,8]") + "}", eight, {"\"w\"", "F31", "F64, F32, BF16"}},
      {"boolean type", "{\"w\":" + entry("\"BOOL\"", "[8]", "[0,8]") + "}", eight, {"\"w\"", "BOOL"}},
      {"type no text", "{\"w\":" + entry("7", "[2]", "[0,8]") + "}", eight, {"\"w\"", "dtype"}},
      {"negative shape", "{\"w\":" + entry("\"F32\"", "[-2]", "[0,8]") + "}", eight, {"\"w\"", "-2"}},
      {"broken shape", "{\"w\":" + entry("\"F32\"", "[2.0]", "[0,8]") + "}", eight, {"\"w\"", "2.0"}},
      {"shape no list", "{\"w\":" + entry("\"F32\"", "2", "[0,8]") + "}", eight, {"\"w\"", "list"}},
      {"overflowing shape",
       "{\"w\":" + entry("\"F32\"", "[4294967296,4294967296,2]", "[0,8]") + "}",
       eight,
       {"\"w\"", "overflow"}},
      {"overflow to the right size",
       "{\"w\":" + entry("\"F32\"", "[4611686018427387905,2]", "[0,8]") + "}",
       eight,
       {"\"w\"", "overflow"}},
      {"huge dimension",
       "{\"w\":" + entry("\"F32\"", "[18446744073709551615]", "[0,8]") + "}",
       eight,
       {"\"w\"", "18446744073709551615"}},
      {"offsets too short",
       "{\"w\":" + entry("\"F32\"", "[2]", "[0,4]") + "}",
       eight.substr(4),
       {"\"w\"", "F32 [2]", "8 bytes", "4"}},
      {"offsets reversed", "{\"w\":" + entry("\"F32\"", "[2]", "[8,0]") + "}", eight, {"\"w\"", "8 to 0"}},
      {"three offsets", "{\"w\":" + entry("\"F32\"", "[2]", "[0,8,8]") + "}", eight, {"\"w\"", "two numbers"}},
      {"offset no number", "{\"w\":" + entry("\"F32\"", "[2]", "[0,\"8\"]") + "}", eight, {"\"w\"", "data_offsets"}},
      {"out of file", "{\"w\":" + entry("\"F32\"", "[4]", "[0,16]") + "}", eight, {"\"w\"", "0 to 16 of 8"}},
      {"far out of file",
       "{\"w\":" + entry("\"F32\"", "[2]", "[9223372036854775800,9223372036854775807]") + "}",
       eight,
       {"\"w\""}},
      {"overlap",
       "{\"v\":" + good + ",\"w\":" + entry("\"F32\"", "[2]", "[4,12]") + "}",
       eight + "1234",
       {"\"w\"", "overlaps", "\"v\""}},
      {"same bytes", "{\"v\":" + good + ",\"w\":" + good + "}", eight, {"overlaps"}},
      {"gap",
       "{\"v\":" + good + ",\"w\":" + entry("\"F32\"", "[1]", "[12,16]") + "}",
       eight + eight,
       {"\"w\"", "4 bytes after"}},
      {"trailing bytes", "{\"w\":" + good + "}", eight + "x", {"1 bytes after the last"}},
      {"no tensors but bytes", "{}", eight, {"8 bytes after the last"}},
      {"no shape", "{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", eight, {"\"w\"", "shape is missing"}},
      {"entry no object", "{\"w\":3}", eight, {"\"w\"", "expected an object"}},
      {"metadata no object", "{\"__metadata__\":3}", "", {"__metadata__"}},
      {"metadata no text", "{\"__metadata__\":{\"a\":3}}", "", {"__metadata__", "\"a\""}},
      {"a line end in the name", "{\"w\\nx\":" + entry("\"F32\"", "[-2]", "[0,8]") + "}", eight, {"w\\x0ax"}},
  };
}

TEST(Safetensors, RefusesEveryDamageUnderItsName) {
  const Scratch scratch;
  const fs::path file = scratch / "hurt.safetensors";
  for (Damage& d : damages()) {
    SCOPED_TRACE(d.name);
    spill(file, raw_safetensors(d.header, d.data));
    d.words.push_back("hurt.safetensors");
    expect_error(ErrorKind::corrupt_file, d.words, [&] { Safetensors::open(file); });
  }
}

TEST(Safetensors, RefusesBadLengths) {
  const Scratch scratch;
  const fs::path file = scratch / "hurt.safetensors";
  const auto refused = [&](const std::string& bytes, const std::string& word) {
    spill(file, bytes);
    expect_error(ErrorKind::corrupt_file, {"hurt.safetensors", word}, [&] { Safetensors::open(file); });
  };
  refused("", "0 bytes");
  refused("1234567", "7 bytes");
  refused(std::string(8, '\0'), "{");
  refused(std::string("\x09\0\0\0\0\0\0\0{}", 10), "9 bytes is stated");
  refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "18446744073709551615");
  // A hole of 100 MB and one byte, which takes no room on the disk.
  spill(file, std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10));
  fs::resize_file(file, 100'000'010);
  expect_error(ErrorKind::corrupt_file, {"100000001", "at most"}, [&] { Safetensors::open(file); });
}

TEST(Safetensors, ReadsWhatIsNotAligned) {
  const Scratch scratch;
  const fs::path file = scratch / "odd.safetensors";
  const float value = 1.5F;
  std::string data = "x" + std::string(reinterpret_cast<const char*>(&value), 4);
  spill(file,
        raw_safetensors(
            "{\"f\":" + entry("\"F32\"", "[1]", "[1,5]") + ",\"b\":" + entry("\"U8\"", "[1]", "[0,1]") + "}   ", data));
  const Safetensors odd = Safetensors::open(file);
  double read = 0;
  read_as(DType::f64, reinterpret_cast<std::byte*>(&read), odd.at("f"));
  EXPECT_EQ(read, 1.5);
  expect_error(ErrorKind::corrupt_file, {"\"b\"", "U8 [1]"},
               [&] { read_as(DType::f64, reinterpret_cast<std::byte*>(&read), odd.at("b")); });
}

TEST(Safetensors, MissingFilesAreNotFound) {
  const Scratch scratch;
  expect_error(ErrorKind::not_found, {"none.safetensors"}, [&] { Safetensors::open(scratch / "none.safetensors"); });
  expect_error(ErrorKind::not_found, {"not a regular file"}, [&] { Safetensors::open(scratch.path()); });
  expect_error(ErrorKind::not_found, {"model.safetensors"}, [&] { Checkpoint::open(scratch.path()); });
}

template <class To, class From>
To converted(From x, DType to, DType from) {
  std::byte in[1 + sizeof x], out[1 + sizeof(To)];  // off by one byte, so that nothing is aligned
  std::memcpy(in + 1, &x, sizeof x);
  convert_elements(out + 1, to, in + 1, from, 1);
  To y;
  std::memcpy(&y, out + 1, sizeof y);
  return y;
}

TEST(Elements, HalvesAreExact) {
  // Every f16: value by its definition.
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = int(bits >> 10 & 31), fraction = int(bits & 0x3ff), sign = bits & 0x8000 ? -1 : 1;
    const float have = converted<float>(uint16_t(bits), DType::f32, DType::f16);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(have), fraction != 0) << bits;
      EXPECT_EQ(std::isinf(have), fraction == 0) << bits;
    } else {
      const double want = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
      EXPECT_EQ(double(have), sign * want) << bits;
      EXPECT_EQ(std::signbit(have), sign < 0) << bits;
    }
  }
}

TEST(Elements, Bf16IsRoundedOnceToNearestEven) {
  const auto rounded = [](double x) { return float(converted<bf16>(x, DType::bf16, DType::f64)); };
  EXPECT_EQ(rounded(1 + 0x1p-8), 1.0F);                   // a tie, to even
  EXPECT_EQ(rounded(1 + 0x3p-8), 1 + 0x1p-6F);            // a tie, to even
  EXPECT_EQ(rounded(1 + 0x1p-8 + 0x1p-40), 1 + 0x1p-7F);  // just above: f32 on the way would make it a tie
  EXPECT_EQ(rounded(1 + 0x3p-8 - 0x1p-40), 1 + 0x1p-7F);  // just below
  EXPECT_EQ(rounded(-1 - 0x1p-8 - 0x1p-40), -1 - 0x1p-7F);
  EXPECT_TRUE(std::isnan(rounded(NAN)));
  EXPECT_EQ(rounded(1e300), INFINITY);
  EXPECT_EQ(rounded(-1e300), -INFINITY);
  EXPECT_EQ(float(converted<bf16>(1 + 0x1p-8F + 0x1p-23F, DType::bf16, DType::f32)), 1 + 0x1p-7F);
  EXPECT_EQ(converted<double>(bf16(-2.5F), DType::f64, DType::bf16), -2.5);
  EXPECT_EQ(converted<float>(0.1, DType::f32, DType::f64), 0.1F);
}

std::vector<TensorToWrite> four_tensors() {
  return {bytes_named("a", DType::f32, {10}, 1), bytes_named("b", DType::f32, {10}, 2),
          bytes_named("c", DType::bf16, {50}, 3), bytes_named("d", DType::f32, {1}, 4)};
}

TEST(Shards, AreCutAtTheLimitAndFoundAgain) {
  const Scratch scratch;
  const auto tensors = four_tensors();
  const auto names_in = [&](int64_t limit, const std::string& folder) {
    fs::create_directory(scratch / folder);
    write_shards(scratch / folder, tensors, limit);
    const Checkpoint checkpoint = Checkpoint::open(scratch / folder);
    std::vector<size_t> sizes;
    for (const Safetensors& shard : checkpoint.shards()) sizes.push_back(shard.tensors().size());
    EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b", "c", "d"}));
    for (const TensorToWrite& t : tensors) EXPECT_EQ(bytes_of(*checkpoint.find(t.name)), bytes_of(t));
    EXPECT_EQ(checkpoint.find("e"), nullptr);
    return sizes;
  };
  EXPECT_EQ(names_in(1000, "one"), (std::vector<size_t>{4}));
  EXPECT_FALSE(fs::exists(scratch / "one/model.safetensors.index.json"));
  EXPECT_EQ(names_in(80, "some"), (std::vector<size_t>{2, 1, 1}));
  EXPECT_EQ(names_in(1, "each"), (std::vector<size_t>{1, 1, 1, 1}));
  EXPECT_TRUE(fs::exists(scratch / "each/model-00004-of-00004.safetensors"));
  const nlohmann::json index = nlohmann::json::parse(slurp(scratch / "some/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 184);
  EXPECT_EQ(index["weight_map"]["c"], "model-00002-of-00003.safetensors");
}

class ShardDamage : public ::testing::Test {
 protected:
  void SetUp() override { write_shards(scratch_.path(), four_tensors(), 80); }
  void refused(const std::vector<std::string>& words) {
    expect_error(ErrorKind::corrupt_file, words, [&] { Checkpoint::open(scratch_.path()); });
  }
  void map_to(const std::string& what, const std::string& with) {
    const fs::path index = scratch_ / "model.safetensors.index.json";
    spill(index, tests::replaced(slurp(index), what, with));
  }
  Scratch scratch_;
};

TEST_F(ShardDamage, MissingShard) {
  fs::remove(scratch_ / "model-00002-of-00003.safetensors");
  refused({"index.json", "model-00002-of-00003.safetensors", "missing"});
}
TEST_F(ShardDamage, TensorNotInItsShard) {
  map_to("\"d\": \"model-00003", "\"e\": \"model-00003");
  refused({"model-00003-of-00003.safetensors", "\"e\"", "missing"});
}
TEST_F(ShardDamage, TensorInTwoShards) {
  write_safetensors(scratch_ / "model-00003-of-00003.safetensors",
                    std::vector{bytes_named("d", DType::f32, {1}, 4), bytes_named("a", DType::f32, {1}, 4)});
  refused({"model-00003", "\"a\"", "another shard"});
}
TEST_F(ShardDamage, PathsThatLeaveTheFolder) {
  for (const char* bad : {"../model-00003-of-00003.safetensors", "/etc/passwd", "", "..", "a/b", "a\\\\b"}) {
    fs::remove(scratch_ / "model.safetensors.index.json");
    write_shards(scratch_.path(), four_tensors(), 80);
    map_to("\"d\": \"model-00003-of-00003.safetensors\"", "\"d\": \"" + std::string(bad) + "\"");
    refused({"index.json", "\"d\"", "same folder"});
  }
}
TEST_F(ShardDamage, IndexWithoutMap) {
  spill(scratch_ / "model.safetensors.index.json", "{\"weight_map\": [1]}");
  refused({"index.json", "weight_map"});
  spill(scratch_ / "model.safetensors.index.json", "{\"weight_map\": {\"a\": 1}}");
  refused({"index.json", "\"a\""});
  spill(scratch_ / "model.safetensors.index.json", "{");
  refused({"index.json", "JSON"});
}

TEST(Atomic, FilesAppearWholeOrNotAtAll) {
  const Scratch scratch;
  {
    AtomicFile file(scratch / "x");
    file.write("half");
    EXPECT_TRUE(fs::exists(scratch / "x.tmp"));
  }
  EXPECT_FALSE(fs::exists(scratch / "x"));
  EXPECT_FALSE(fs::exists(scratch / "x.tmp"));
  write_file(scratch / "x", "first");
  expect_error(ErrorKind::invalid_input, {"x", "exists"}, [&] { write_file(scratch / "x", "other", Replace::no); });
  EXPECT_EQ(slurp(scratch / "x"), "first");
  write_file(scratch / "x", "second");
  EXPECT_EQ(slurp(scratch / "x"), "second");
  expect_error(ErrorKind::not_found, {"none/x"}, [&] { write_file(scratch / "none/x", "y"); });
}

TEST(Atomic, FoldersAppearWholeOrNotAtAll) {
  const Scratch scratch;
  fs::create_directory(scratch / "f.tmp");
  spill(scratch / "f.tmp/leftover", "of an interrupted attempt");
  {
    AtomicFolder folder(scratch / "f");
    spill(folder.path() / "a", "1");
    EXPECT_FALSE(fs::exists(scratch / "f.tmp/leftover"));
  }
  EXPECT_FALSE(fs::exists(scratch / "f"));
  EXPECT_FALSE(fs::exists(scratch / "f.tmp"));
  {
    AtomicFolder folder(fs::path((scratch / "f").string() + "/"));
    spill(folder.path() / "a", "1");
    folder.commit();
  }
  EXPECT_EQ(slurp(scratch / "f/a"), "1");
  expect_error(ErrorKind::invalid_input, {"f", "exists"}, [&] { AtomicFolder folder(scratch / "f"); });
  {
    AtomicFolder folder(scratch / "f", Replace::yes);
    spill(folder.path() / "b", "2");
    folder.commit();
  }
  EXPECT_FALSE(fs::exists(scratch / "f/a"));
  EXPECT_EQ(slurp(scratch / "f/b"), "2");
  EXPECT_FALSE(fs::exists(scratch / "f.tmp"));
  EXPECT_FALSE(fs::exists(scratch / "f.old"));
}

TEST(Atomic, WhatInterruptedAttemptsLeftGoesAndNothingElse) {
  const Scratch scratch;
  for (const char* name : {"f", "f.tmp", "f.old", "g.tmp"}) fs::create_directory(scratch / name);
  remove_leftovers(scratch / "f");
  EXPECT_TRUE(fs::exists(scratch / "f"));
  EXPECT_FALSE(fs::exists(scratch / "f.tmp") || fs::exists(scratch / "f.old"));
  remove_folder(scratch / "f");
  EXPECT_FALSE(fs::exists(scratch / "f") || fs::exists(scratch / "f.tmp"));
  EXPECT_TRUE(fs::exists(scratch / "g.tmp"));
}

TEST(FolderLock, IsHeldByOne) {
  const Scratch scratch;
  {
    const FolderLock lock(scratch.path());
    expect_error(ErrorKind::invalid_input, {"another process"}, [&] { FolderLock again(scratch.path()); });
  }
  const FolderLock again(scratch.path());
  expect_error(ErrorKind::not_found, {"none"}, [&] { FolderLock none(scratch / "none"); });
}

TEST(JsonFile, ReplacesOneValueAndKeepsEveryOtherByte) {
  const std::string text =
      "\n{ \"a\" : [1, {\"b\": \"}\"}], \"b\\u0062\":1e-05 ,\"n\": {\"b\": 2}\t, \"b\": \"q\\\"r\"\n}  ";
  EXPECT_EQ(with_value(text, "b", "7"), tests::replaced(text, "\"q\\\"r\"", "7"));
  EXPECT_EQ(with_value(text, "bb", "7"), tests::replaced(text, "1e-05", "7"));
  EXPECT_EQ(with_value(text, "a", "0"), tests::replaced(text, "[1, {\"b\": \"}\"}]", "0"));
  EXPECT_EQ(with_value(text, "c", "0"), text);
  EXPECT_EQ(with_value("{}", "c", "0"), "{}");
}

TEST(Digest, IsXxh3) {
  EXPECT_EQ(digest_of(std::string_view()), "2d06800538d394c2");  // XXH3_64bits of nothing, seed 0, by its specification
  const Scratch scratch;
  spill(scratch / "x", "some bytes");
  EXPECT_EQ(digest_of_file(scratch / "x"), digest_of(std::string_view("some bytes")));
  EXPECT_NE(digest_of(std::string_view("some bytes")), digest_of(std::string_view("some bytez")));
  Digest pieces;
  for (const std::string_view piece : {"so", "", "me bytes"}) pieces.add(std::as_bytes(std::span(piece)));
  EXPECT_EQ(pieces.text(), digest_of(std::string_view("some bytes")));
}

}  // namespace
}  // namespace fulgur
