// Slots and pages: taken zeroed, given back, shared, copied before they are written, and refused when none is left.
#include <gtest/gtest.h>

#include <cmath>

#include "state/state_image.h"

namespace fulgur {
namespace {

const StateShape kShape{.lightning = {true, false, true}, .heads = 2, .kv_heads = 1, .head_dim = 4, .type = DType::f32};

TEST(StateShape, bytes) {
  EXPECT_EQ(kShape.slot_bytes(), 2 * (2 * 4 * 4 * 4 + 2 * 2 * 64 * 4 * 4));
  EXPECT_EQ(kShape.page_bytes(), 2 * 64 * 4 * 4);
}

TEST(StatePool, one_tensor_per_layer) {
  const StatePool pool(kShape, 3, 5);
  EXPECT_TRUE(pool.state()[0].is(DType::f32, {3, 2, 4, 4}));
  EXPECT_TRUE(pool.tail()[2].is(DType::f32, {3, 2, 2, 64, 4}));
  EXPECT_TRUE(pool.kv_pages()[1].is(DType::f32, {5, 2, 1, 64, 4}));
  EXPECT_FALSE(bool(pool.state()[1]) || bool(pool.tail()[1]) || bool(pool.kv_pages()[0]));
}

TEST(SequenceState, pages_follow_the_grid) {
  StatePool pool(kShape, 2, 5);
  Stream stream;
  SequenceState s(pool, stream);
  s.reserve(stream, 64);
  EXPECT_EQ(s.pages().size(), 1u);
  s.advance(64);
  s.reserve(stream, 1);
  EXPECT_EQ(s.pages().size(), 2u);
  s.advance(1);
  s.reserve(stream, 63);
  EXPECT_EQ(s.pages().size(), 2u);
  EXPECT_EQ(s.position(), 65);
  EXPECT_EXIT(s.advance(64), testing::ExitedWithCode(kExitBrokenPromise), "reserved");
}

TEST(SequenceState, what_is_given_back_is_taken_zeroed) {
  StatePool pool(kShape, 1, 2);
  Stream stream;
  {
    SequenceState s(pool, stream);
    s.reserve(stream, 128);
    *pool.state()[0].elements<float>() = 7;
    EXPECT_THROW(SequenceState(pool, stream), Error) << "the only slot is taken";
    EXPECT_THROW(s.reserve(stream, 129), Error) << "both pages are taken";
  }
  SequenceState again(pool, stream);
  EXPECT_EQ(*pool.state()[0].elements<float>(), 0);
  again.reserve(stream, 128);
  EXPECT_EQ(again.pages().size(), 2u);
  const SequenceState moved = std::move(again);
  EXPECT_EQ(moved.pages().size(), 2u);
}

// What forward() would leave: every number of the covered positions is `value` plus the position.
void write(SequenceState& s, Stream& stream, int64_t tokens, float value) {
  s.reserve(stream, tokens);
  const StatePool& pool = s.pool();
  for (int64_t at = s.position(); at < s.position() + tokens; ++at) {
    const auto kv = pool.kv_pages()[1].view<float, 5>();
    for (int64_t part = 0; part < 2; ++part)
      for (int64_t d = 0; d < 4; ++d) kv(s.pages()[size_t(at / 64)], part, 0, at % 64, d) = value + float(at);
    for (const size_t layer : {size_t(0), size_t(2)}) {
      const auto tail = pool.tail()[layer].view<float, 5>();
      for (int64_t d = 0; d < 4; ++d) tail(s.slot(), 1, 1, at % 64, d) = value + float(at);
      if (at % 64 == 63) pool.state()[layer].view<float, 4>()(s.slot(), 1, 3, 3) = value + float(at);
    }
  }
  s.advance(tokens);
}
float key_at(const SequenceState& s, int64_t at) {
  return s.pool().kv_pages()[1].view<float, 5>()(s.pages()[size_t(at / 64)], 0, 0, at % 64, 2);
}
float tail_at(const SequenceState& s, int64_t at) {
  return s.pool().tail()[2].view<float, 5>()(s.slot(), 1, 1, at % 64, 3);
}
float state_of(const SequenceState& s) { return s.pool().state()[0].view<float, 4>()(s.slot(), 1, 3, 3); }

TEST(SequenceState, a_fork_shares_pages_until_one_is_written) {
  StatePool pool(kShape, 3, 8);
  Stream stream;
  SequenceState one(pool, stream);
  write(one, stream, 70, 1000);
  {
    SequenceState two = one.fork(stream);
    EXPECT_EQ(pool.free_pages(), 6);
    EXPECT_EQ(state_of(two), state_of(one));
    EXPECT_EQ(two.pages_to_reserve(1), 1);
    write(two, stream, 10, 2000);
    EXPECT_EQ(pool.free_pages(), 5) << "the open page was copied, the full one was not";
    EXPECT_EQ(one.pages_to_reserve(1), 0) << "its page is its own again";
    write(one, stream, 10, 3000);
    EXPECT_EQ(pool.free_pages(), 5);
    EXPECT_EQ(key_at(two, 69), 1069);
    EXPECT_EQ(key_at(one, 69), 1069);
    EXPECT_EQ(key_at(two, 70), 2070);
    EXPECT_EQ(key_at(one, 70), 3070);
    EXPECT_EQ(tail_at(two, 70), 2070);
    EXPECT_EQ(tail_at(one, 70), 3070);
    EXPECT_EQ(tail_at(two, 69), 1069);
  }
  EXPECT_EQ(pool.free_pages(), 6);
  EXPECT_EQ(pool.free_slots(), 2);
}

TEST(SequenceState, undo_goes_back_to_the_grid_and_no_further) {
  StatePool pool(kShape, 1, 4);
  Stream stream;
  SequenceState s(pool, stream);
  write(s, stream, 130, 0);
  EXPECT_EQ(s.undoable(), 2);
  EXPECT_THROW(s.undo(3), Error);
  EXPECT_THROW(s.undo(-1), Error);
  EXPECT_EQ(s.position(), 130);
  s.undo(1);
  EXPECT_EQ(s.position(), 129);
  s.undo(1);
  EXPECT_EQ(s.pages().size(), 2u) << "the page of the undone tokens is free";
  EXPECT_THROW(s.undo(1), Error);
}

TEST(SequenceState, a_checkpoint_is_a_place_to_go_back_to) {
  StatePool pool(kShape, 2, 8);
  Stream stream;
  SequenceState s(pool, stream);
  write(s, stream, 100, 1000);
  const StateCheckpoint mark = s.checkpoint(stream);
  write(s, stream, 100, 5000);
  EXPECT_EQ(key_at(s, 100), 5100);
  s.restore(stream, mark);
  EXPECT_EQ(s.position(), 100);
  EXPECT_EQ(state_of(s), 1063);
  EXPECT_EQ(key_at(s, 99), 1099);
  EXPECT_EQ(tail_at(s, 99), 1099);
  write(s, stream, 100, 7000);
  EXPECT_EQ(key_at(s, 99), 1099);
  EXPECT_EQ(key_at(s, 100), 7100);
  s.restore(stream, mark);
  EXPECT_EQ(key_at(s, 99), 1099) << "what came after did not reach the checkpoint's pages";
}

TEST(StateImage, is_the_state_and_nothing_else) {
  StatePool pool(kShape, 2, 8), other(kShape, 1, 4);
  Stream stream;
  SequenceState s(pool, stream);
  write(s, stream, 128, 1000), write(s, stream, 3, 9000);
  s.undo(2);  // rows that no longer count
  const StateImage image(stream, s);
  EXPECT_EQ(image.position(), 129);
  EXPECT_EQ(image.parts().size(), 5u);
  EXPECT_EQ(image.parts()[2].name, "layers.1.kv");
  const SequenceState placed = image.place(stream, other);
  EXPECT_EQ(placed.position(), 129);
  EXPECT_EQ(state_of(placed), 1127);
  EXPECT_EQ(key_at(placed, 100), 1100);
  EXPECT_EQ(key_at(placed, 128), 9128);
  EXPECT_EQ(tail_at(placed, 128), 9128);
  EXPECT_EQ(tail_at(placed, 129), 0) << "an undone row is not in the image";
  EXPECT_EQ(key_at(placed, 129 + 20), 0);
  EXPECT_THROW(image.place(stream, other), Error) << "no slot is left";
  StateShape wider = kShape;
  wider.heads = 4;
  StatePool wide(wider, 1, 4);
  EXPECT_THROW(image.place(stream, wide), Error);
}

#ifdef FULGUR_POISON
TEST(StatePool, what_is_given_back_is_poisoned) {
  StatePool pool(kShape, 1, 2);
  Stream stream;
  {
    SequenceState s(pool, stream);
    write(s, stream, 65, 1);
  }
  EXPECT_TRUE(std::isnan(*pool.state()[0].elements<float>()));
  EXPECT_TRUE(std::isnan(*pool.tail()[2].elements<float>()));
  EXPECT_TRUE(std::isnan(*pool.kv_pages()[1].elements<float>()));
}
#endif

}  // namespace
}  // namespace fulgur
