#include "device/transfer.h"

#include <algorithm>

namespace fulgur {

void for_bytes(Stream& stream, Tensor tensor, const std::function<void(std::span<const std::byte>)>& visit,
               int64_t piece) {
  expect(tensor.dense(), "the bytes that are visited lie end to end");
  const Tensor all = contiguous(tensor.data, DType::u8, tensor.device, {tensor.bytes()});
  stream.synchronize();
  if (!tensor.device.is_cuda()) return visit({tensor.data, size_t(tensor.bytes())});
  for (int64_t begin = 0; begin < tensor.bytes(); begin += piece) {
    const std::vector<uint8_t> bytes = download<uint8_t>(stream, all.rows(begin, std::min(begin + piece, all.dim(0))));
    visit(std::as_bytes(std::span(bytes)));
  }
}

std::vector<std::byte> bytes_of(Stream& stream, Tensor tensor) {
  std::vector<std::byte> all;
  all.reserve(size_t(tensor.bytes()));
  for_bytes(stream, tensor,
            [&](std::span<const std::byte> bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); });
  return all;
}

}  // namespace fulgur
