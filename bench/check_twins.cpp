#include "bench/check_twins.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/grid.h"
#include "device/buffer.h"

namespace fulgur::bench {
namespace {

// ||cuda - cpu|| / ||cpu|| of a row, of numbers that were rounded to bf16 somewhere on the way, or to f32.
constexpr double kBf16Bound = 1e-2, kF32Bound = 2e-5;

double element(const std::byte* at, DType type) {
  switch (type) {
    case DType::f64: return *reinterpret_cast<const double*>(at);
    case DType::f32: return double(*reinterpret_cast<const float*>(at));
    case DType::bf16: return double(float(*reinterpret_cast<const bf16*>(at)));
    case DType::i32: return double(*reinterpret_cast<const int32_t*>(at));
    case DType::i64: return double(*reinterpret_cast<const int64_t*>(at));
    default: return double(*reinterpret_cast<const uint8_t*>(at));
  }
}

struct RowGap {
  int64_t row = 0;
  double gap = 0;
};

// The row of the first axis that differs most, beside its own norm or that of the mean row, whichever is larger; whole
// numbers that differ are infinitely far apart.
RowGap largest_gap(const Tensor& cuda, const Tensor& cpu) {
  const int64_t rows = std::max<int64_t>(cuda.dim(0), 1), columns = cuda.count() / rows;
  std::vector<double> gaps(static_cast<size_t>(rows)), sizes = gaps;
  double all = 0;
  for (int64_t i = 0; i < cuda.count(); ++i) {
    int64_t at = 0, rest = i;
    for (int axis = cuda.rank - 1; axis >= 0; --axis)
      at += rest % cuda.dim(axis) * cuda.stride[size_t(axis)], rest /= cuda.dim(axis);
    const double have = element(cuda.data + at * byte_size(cuda.dtype), cuda.dtype),
                 want = element(cpu.data + at * byte_size(cpu.dtype), cpu.dtype);
    if (have == want || (std::isnan(have) && std::isnan(want))) {
      if (!std::isnan(want) && !std::isinf(want)) sizes[size_t(i / columns)] += want * want, all += want * want;
      continue;
    }
    const bool whole = cuda.dtype == DType::i32 || cuda.dtype == DType::i64;
    const double gap = whole || !std::isfinite(have - want) ? INFINITY : have - want;
    gaps[size_t(i / columns)] += gap * gap;
    if (std::isfinite(want)) sizes[size_t(i / columns)] += want * want, all += want * want;
  }
  RowGap largest;
  for (int64_t row = 0; row < rows; ++row) {
    if (gaps[size_t(row)] == 0) continue;
    const double gap = std::sqrt(gaps[size_t(row)] / std::max({sizes[size_t(row)], all / double(rows), 1e-300}));
    if (gap > largest.gap) largest = {row, gap};
  }
  return largest;
}

// Zeroes what nobody reads of a sequence's tail: the rows from its position on, counted in its block of 64. Which of
// them a twin writes is its own affair.
void forget_tail(const std::vector<Tensor>& lightning_operands) {
  enum : size_t { kRowBegin = 3, kPositions, kSlots, kTail = 7, kOperands = 9 };
  if (lightning_operands.size() != kOperands) return;  // in training there is none
  const auto row_begin = lightning_operands[kRowBegin].view<int32_t, 1>();
  const auto positions = lightning_operands[kPositions].view<int64_t, 1>();
  const Tensor tail = lightning_operands[kTail];
  for (int64_t s = 0; s + 1 < row_begin.shape[0]; ++s) {
    if (row_begin(s + 1) == row_begin(s)) continue;
    const Tensor own = tail.at(lightning_operands[kSlots].view<int32_t, 1>()(s));
    const int64_t kept = (positions(row_begin(s + 1) - 1) + 1) % kGrid;
    for (int64_t head = 0; head < own.dim(0); ++head)
      for (int64_t part = 0; part < own.dim(1); ++part) {
        const Tensor rest = own.at(head).at(part).rows(kept, kGrid);
        std::memset(rest.data, 0, size_t(rest.bytes()));
      }
  }
}

// Where rounding alone tells two logits apart, either expert is a right choice and all that follows from it differs: of
// such a call the logits alone are compared.
void forget_close_choices(const std::vector<Tensor>& cpu, const std::vector<Tensor>& cuda) {
  enum : size_t { kIds = 3, kLogits = 5 };
  const auto ids = cpu[kIds].view<int32_t, 2>(), others = cuda[kIds].view<int32_t, 2>();
  const int64_t experts = cpu[kLogits].dim(1);
  bool close = false;
  for (int64_t row = 0; row < ids.shape[0]; ++row) {
    const float* const logits = cpu[kLogits].at(row).elements<float>();
    float largest = 0;
    for (int64_t e = 0; e < experts; ++e) largest = std::max(largest, std::abs(logits[e]));
    for (int64_t slot = 0; slot < ids.shape[1]; ++slot) {
      const int32_t id = ids(row, slot), other = others(row, slot);
      if (id == other) continue;
      if (other < 0 || other >= experts || !(std::abs(logits[id] - logits[other]) <= kF32Bound * largest)) return;
      close = true;
    }
  }
  if (!close) return;
  for (size_t i = 0; i < cpu.size(); ++i)
    if (i != kLogits && cpu[i].dense()) std::memcpy(cpu[i].data, cuda[i].data, size_t(cpu[i].bytes()));
}

}  // namespace

CheckTwins::CheckTwins(Stream& stream, const ModelWeights& weights, int threads)
    : stream_(stream), weights_(weights), host_({}, threads) {
  if (!stream.device().is_cuda())
    fail(ErrorKind::invalid_input, "--check-twins compares a GPU with the CPU: expected --device cuda with it");
  recorder_.before = [this](const OperatorCall& call, const Replay&) {
    note_layer(call);
    stream_.record(nullptr);
    before_.emplace(call.tensors, reader());
    stream_.record(&recorder_);
  };
  recorder_.after = [this](const OperatorCall& call, const Replay& replay) {
    stream_.record(nullptr);
    compare(call, replay);
    stream_.record(&recorder_);
    recorder_.calls.clear();
  };
  recorder_.start(stream);
}

std::function<void(void*, const void*, size_t)> CheckTwins::reader() {
  return [this](void* to, const void* from, size_t bytes) {
    const auto bytes_at = [&](const void* at, DeviceId device) {
      return contiguous(static_cast<std::byte*>(const_cast<void*>(at)), DType::u8, device, {int64_t(bytes)});
    };
    copy(stream_, bytes_at(to, {}), bytes_at(from, stream_.device()));
    stream_.synchronize();
  };
}

CheckTwins::~CheckTwins() { stream_.record(nullptr); }

// The last parameter that a call has read says where in the model it stands.
void CheckTwins::note_layer(const OperatorCall& call) {
  for (const TouchedTensor& t : call.tensors)
    for (const Parameter& p : weights_.parameters)
      if (p.view.data == t.tensor.data) layer_ = p.checkpoint_name;
}

void CheckTwins::compare(const OperatorCall& call, const Replay& replay) {
  const std::vector<uint8_t> made = before_->again(reader());
  const size_t bytes = made.size();
  const Buffer cuda(bytes, Purpose::workspace), cpu(bytes, Purpose::workspace);
  std::memcpy(cuda.data(), made.data(), bytes), std::memcpy(cpu.data(), before_->bytes().data(), bytes);
  std::vector<Tensor> operands, results;
  bool is_rounded = false;
  for (const TouchedTensor& t : call.tensors) {
    operands.push_back(before_->moved(t.tensor, cpu.data(), {}));
    results.push_back(before_->moved(t.tensor, cuda.data(), {}));
    is_rounded |= t.tensor.dtype == DType::bf16;
  }
  replay(host_, operands);
  if (std::string_view(call.name) == "lightning_attention") forget_tail(operands), forget_tail(results);
  if (std::string_view(call.name) == "route_rows") forget_close_choices(operands, results);
  Seen& seen = seen_[call.name];
  ++seen.calls;
  const double bound = is_rounded ? kBf16Bound : kF32Bound;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (!call.tensors[i].written || operands[i].count() == 0) continue;
    const RowGap found = largest_gap(results[i], operands[i]);
    if (seen.bound == 0 || found.gap / bound > seen.gap / seen.bound) seen.gap = found.gap, seen.bound = bound;
    if (found.gap <= bound || !first_.empty()) continue;
    char text[96];
    std::snprintf(text, sizeof text, ", row %lld: they differ by %.3g of its norm, expected at most %.3g",
                  static_cast<long long>(found.row), found.gap, bound);
    first_ = std::string(call.name) + " (" + layer_ + "), operand " + std::to_string(i) + text;
  }
}

std::string CheckTwins::table() const {
  std::string lines = "operator                          calls  largest gap     bound\n";
  for (const auto& [name, seen] : seen_) {
    char line[120];
    std::snprintf(line, sizeof line, "%-30s %8lld  %11.3g  %8.1g\n", name.c_str(), static_cast<long long>(seen.calls),
                  seen.gap, seen.bound);
    lines += line;
  }
  return lines;
}

void CheckTwins::judge() const {
  if (!first_.empty()) fail(ErrorKind::device, "the twins differ first in " + first_);
}

}  // namespace fulgur::bench
