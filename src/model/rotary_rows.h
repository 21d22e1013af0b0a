// The rows of q and k in files whose rotary pairs other dims than ours. Here, as in the released code, dims i and
// i + rotary_dim / 2 of a head turn together; in transformers' "proportional" rotary i and i + head_dim / 2 do.
// Attention sums over all dims, so with its rows in that order a model is the same.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fulgur {

struct RotaryRows {
  int64_t head_dim = 0, rotary_dim = 0;  // both even; head_dim 0: files hold the rows as we do
};

// Rows [count] of row_bytes each, whole heads, in place.
void to_file_order(const RotaryRows& order, std::byte* rows, int64_t count, int64_t row_bytes);
void from_file_order(const RotaryRows& order, std::byte* rows, int64_t count, int64_t row_bytes);

// The theta that such a file states for the same angles: its frequencies are theta^(-2i / head_dim), ours
// theta^(-2i / rotary_dim). There and back is the theta that it was, if that has at most 12 digits.
double to_file_theta(const RotaryRows& order, double theta);
double from_file_theta(const RotaryRows& order, double stated);

}  // namespace fulgur
