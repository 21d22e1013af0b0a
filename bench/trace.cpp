#include "bench/trace.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/step_table.h"

namespace fulgur::bench {
namespace {

constexpr double kMemorySeconds = 0.2, kProductSeconds = 0.05;  // rates of a trace are for a look, not for a record

}  // namespace

std::string shape_of(const Tensor& t) {
  std::string text = name_of(t.dtype);
  for (int axis = 0; axis < t.rank; ++axis) text += (axis ? "," : "[") + std::to_string(t.dim(axis));
  return text + "]";
}

std::string chrome_trace(const Recorder& recorder) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  for (const OperatorCall& call : recorder.calls) {
    std::string shapes;
    for (const TouchedTensor& t : call.tensors) shapes += (shapes.empty() ? "" : " ") + shape_of(t.tensor);
    events.push_back({{"name", call.name},
                      {"cat", "operator"},
                      {"ph", "X"},
                      {"ts", (call.start - recorder.started()) * 1e6},
                      {"dur", (call.end - call.start) * 1e6},
                      {"pid", 1},
                      {"tid", 1},
                      {"args", {{"bytes", call.work.bytes}, {"flops", call.work.flops()}, {"shape", shapes}}}});
  }
  return nlohmann::ordered_json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump() + "\n";
}

StepTrace::StepTrace(const std::string& path, Record record) : always_(record == Record::always) {
  if (!path.empty()) file_ = std::make_unique<AtomicFile>(path);
}

double StepTrace::floor(int threads, DeviceId device) const try {
  constexpr int64_t kBytes =
      int64_t(64) << 20;  // a second or two for a run's progress line: no ring beyond every cache
  Threads pool(threads);
  const bool gpu = device.is_cuda();
  ProductRates products = gpu ? ProductRates(pool, kH100) : ProductRates(pool, kProductSeconds / 5, kBytes);
  Floors floors(
      gpu ? measured_memory_rates(device, kMemorySeconds / 5) : measured_memory_rates(pool, kMemorySeconds / 5, kBytes),
      products);
  return table_of(recorder_, floors).floor();
} catch (const Error& error) {
  if (error.kind() != ErrorKind::out_of_memory) throw;
  return 0;
}

void StepTrace::finish(int threads, DeviceId device) {
  if (!file_) return;
  file_->write(chrome_trace(recorder_));
  file_->commit();
  Threads pool(threads);
  const bool gpu = device.is_cuda();
  ProductRates products = gpu ? ProductRates(pool, kH100) : ProductRates(pool, kProductSeconds);
  Floors floors(gpu ? measured_memory_rates(device, kMemorySeconds) : measured_memory_rates(pool, kMemorySeconds),
                products);
  std::fprintf(stderr, "%s", text_of(table_of(recorder_, floors), floors).c_str());
}

}  // namespace fulgur::bench
