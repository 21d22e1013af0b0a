#include "model/rotary_rows.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace fulgur {
namespace {

// Where the file holds row d of a head. What is not turned fills the places that are left, in order.
int64_t place_of(const RotaryRows& order, int64_t d) {
  const int64_t half = order.rotary_dim / 2, head_half = order.head_dim / 2;
  if (d < half || d >= head_half + half) return d;
  return d < order.rotary_dim ? d - half + head_half : d - half;
}

enum class Direction { to_file, from_file };

void reorder(const RotaryRows& order, std::byte* rows, int64_t count, int64_t row_bytes, Direction direction) {
  if (order.head_dim == 0 || order.head_dim == order.rotary_dim) return;
  expect(order.head_dim % 2 == 0 && order.rotary_dim % 2 == 0 && count % order.head_dim == 0,
         "rows of q and k are whole heads of an even size");
  std::vector<std::byte> head(size_t(order.head_dim * row_bytes));
  for (std::byte* at = rows; at != rows + count * row_bytes; at += head.size()) {
    std::memcpy(head.data(), at, head.size());
    for (int64_t d = 0; d < order.head_dim; ++d) {
      const int64_t place = place_of(order, d);
      const int64_t from = direction == Direction::to_file ? d : place,
                    to = direction == Direction::to_file ? place : d;
      std::memcpy(at + to * row_bytes, head.data() + from * row_bytes, size_t(row_bytes));
    }
  }
}

}  // namespace

double to_file_theta(const RotaryRows& order, double theta) {
  if (order.rotary_dim == 0 || order.rotary_dim == order.head_dim) return theta;  // without angles any theta will do
  return std::pow(theta, double(order.head_dim) / double(order.rotary_dim));
}

double from_file_theta(const RotaryRows& order, double stated) {
  if (order.rotary_dim == 0 || order.rotary_dim == order.head_dim) return stated;
  const double theta = std::pow(stated, double(order.rotary_dim) / double(order.head_dim));
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.12g", theta);
  const double rounded = std::strtod(digits, nullptr);
  return to_file_theta(order, rounded) == stated ? rounded : theta;
}

void to_file_order(const RotaryRows& order, std::byte* rows, int64_t count, int64_t row_bytes) {
  reorder(order, rows, count, row_bytes, Direction::to_file);
}

void from_file_order(const RotaryRows& order, std::byte* rows, int64_t count, int64_t row_bytes) {
  reorder(order, rows, count, row_bytes, Direction::from_file);
}

}  // namespace fulgur
