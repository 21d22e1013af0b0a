// Slots and pages: taken zeroed, given back, and refused when none is left.
#include <gtest/gtest.h>

#include "state/sequence_state.h"

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
  s.reserve(64);
  EXPECT_EQ(s.pages().size(), 1u);
  s.advance(64);
  s.reserve(1);
  EXPECT_EQ(s.pages().size(), 2u);
  s.advance(1);
  s.reserve(63);
  EXPECT_EQ(s.pages().size(), 2u);
  EXPECT_EQ(s.position(), 65);
  EXPECT_EXIT(s.advance(64), testing::ExitedWithCode(kExitBrokenPromise), "reserved");
}

TEST(SequenceState, what_is_given_back_is_taken_zeroed) {
  StatePool pool(kShape, 1, 2);
  Stream stream;
  {
    SequenceState s(pool, stream);
    s.reserve(128);
    *pool.state()[0].elements<float>() = 7;
    EXPECT_THROW(SequenceState(pool, stream), Error) << "the only slot is taken";
    EXPECT_THROW(s.reserve(129), Error) << "both pages are taken";
  }
  SequenceState again(pool, stream);
  EXPECT_EQ(*pool.state()[0].elements<float>(), 0);
  again.reserve(128);
  EXPECT_EQ(again.pages().size(), 2u);
  const SequenceState moved = std::move(again);
  EXPECT_EQ(moved.pages().size(), 2u);
}

}  // namespace
}  // namespace fulgur
