// What was read before is not read again, and changes no byte; budgets hold, in memory and on disk.
#include "generate/prefix_store.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "generate/scheduler.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;

std::vector<int32_t> random_tokens(uint64_t seed, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int32_t(philox(seed, uint64_t(i), 1)[0] % 97));
  return tokens;
}

struct Reader {
  TinyModel model;
  Engine engine;
  Scheduler scheduler{engine};

  explicit Reader(DType type = DType::f32)
      : model(tiny_config(), type, 3), engine(model.config, model.weights, {.sequences = 2, .tokens = 1200}) {}
  // How many steps a prompt took, in chunks of 16 rows, and what was written.
  std::vector<int32_t> answer(const std::vector<int32_t>& prompt, bool remembers) {
    const SessionId id = scheduler.open();
    scheduler.ask(id, {.tokens = prompt, .max_tokens = 20, .sampling = {.seed = 4}});
    first_position = scheduler.position(id);
    while (!scheduler.idle()) scheduler.step();
    if (remembers) scheduler.remember(id);
    std::vector<int32_t> tokens = scheduler.tokens(id);
    scheduler.close(id);
    return tokens;
  }
  int64_t first_position = 0;  // what was known of the last prompt
  StateShape shape() { return engine.pool().shape(); }
};

TEST(PrefixStore, known_beginnings_change_no_token) {
  for (const DType type : {DType::f32, DType::bf16})
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Reader plain(type), with(type);
      PrefixStore store({.shape = with.shape(), .memory_bytes = size_t(1) << 30});
      with.scheduler.use(&store);
      const int64_t length = 1 + int64_t(philox(seed, 1, 2)[0] % 200);
      const std::vector<int32_t> first = with.answer(random_tokens(seed, length), true);
      std::vector<int32_t> second = first;  // goes on after the answer, whose last token was not read yet
      const std::vector<int32_t> more = random_tokens(seed + 100, 30);
      second.insert(second.end(), more.begin(), more.end());
      EXPECT_EQ(with.answer(second, false), plain.answer(second, false)) << seed;
      EXPECT_EQ(with.first_position, int64_t(first.size()) - 1);
      EXPECT_EQ(plain.first_position, 0);
      second[size_t(length) / 2] ^= 1;  // another text
      EXPECT_EQ(with.answer(second, false), plain.answer(second, false)) << seed;
      EXPECT_EQ(with.first_position, 0);
    }
}

StateImage image_of(Reader& r, const std::vector<int32_t>& tokens) {
  const SessionId id = r.scheduler.open();
  r.scheduler.ask(id, {.tokens = tokens});
  while (!r.scheduler.idle()) r.scheduler.step();
  StateImage image = r.scheduler.image(id).twin();
  r.scheduler.close(id);
  return image;
}

TEST(PrefixStore, the_longest_beginning_is_found) {
  Reader r;
  PrefixStore store({.shape = r.shape(), .memory_bytes = size_t(1) << 30});
  const std::vector<int32_t> tokens = random_tokens(5, 100);
  for (const size_t length : {10, 70, 90})
    store.put(std::span(tokens).first(length), image_of(r, {tokens.begin(), tokens.begin() + int64_t(length)}));
  EXPECT_EQ(store.find(std::span(tokens).first(89))->position(), 70);
  EXPECT_EQ(store.find(tokens)->position(), 90);
  EXPECT_FALSE(store.find(std::span(tokens).first(9)));
}

TEST(PrefixStore, budgets_hold_and_the_least_used_goes) {
  Reader r;
  const Scratch scratch;
  const std::vector<int32_t> a = random_tokens(1, 60), b = random_tokens(2, 60), c = random_tokens(3, 60),
                             d = random_tokens(4, 60);
  const size_t one = image_of(r, a).bytes();
  const SessionBinding binding{.model = "m", .chat_template = "", .dtype = "f32"};
  const PrefixStoreOptions options{
      .shape = r.shape(), .memory_bytes = 2 * one, .folder = scratch / "states", .disk_bytes = one, .binding = binding};
  {
    PrefixStore store(options);
    store.put(a, image_of(r, a)), store.put(b, image_of(r, b));
    EXPECT_EQ(store.disk_bytes(), 0u);
    EXPECT_TRUE(store.find(a));  // so b is the least used one
    store.put(c, image_of(r, c));
    EXPECT_EQ(store.memory_bytes(), 2 * one);
    EXPECT_EQ(store.disk_bytes(), one);
    EXPECT_EQ(store.find(b)->position(), 60) << "from disk";
    store.put(d, image_of(r, d));  // a leaves memory, and the disk too: b was used after it
    EXPECT_FALSE(store.find(a));
    EXPECT_TRUE(store.find(b) && store.find(c) && store.find(d));
  }
  PrefixStore again(options);
  EXPECT_EQ(again.disk_bytes(), one);
  EXPECT_TRUE(again.find(b)) << "what was on disk is found again";
  EXPECT_FALSE(again.find(c)) << "what was in memory is gone";

  PrefixStoreOptions other = options;
  other.binding.model = "another";
  EXPECT_FALSE(PrefixStore(other).find(b));
  EXPECT_TRUE(PrefixStore(options).find(b)) << "another model's files are left alone";

  const fs::path file = fs::directory_iterator(scratch / "states")->path();
  std::string bytes = slurp(file);
  bytes[bytes.size() / 2] ^= 1;
  spill(file, bytes);
  EXPECT_FALSE(again.find(b));
  EXPECT_EQ(again.damaged_files(), 1);
  EXPECT_FALSE(fs::exists(file));
  EXPECT_EQ(again.disk_bytes(), 0u);
}

TEST(PrefixStore, without_a_folder_what_exceeds_memory_is_gone) {
  Reader r;
  const std::vector<int32_t> a = random_tokens(1, 60), b = random_tokens(2, 60);
  PrefixStore store({.shape = r.shape(), .memory_bytes = image_of(r, a).bytes()});
  store.put(a, image_of(r, a)), store.put(a, image_of(r, a)), store.put(b, image_of(r, b));
  EXPECT_FALSE(store.find(a));
  EXPECT_TRUE(store.find(b));
}

}  // namespace
}  // namespace fulgur::tests
