// The goldens of spec/model.md 10 in tests/golden: a checkpoint, and what the model makes of given ids.
#pragma once
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "files/safetensors.h"
#include "generate/engine.h"
#include "model/checkpoint.h"
#include "tests/test_device.h"

namespace fulgur::tests {

struct Golden {
  ModelConfig config;
  LoadedWeights loaded;
  Safetensors expected;

  explicit Golden(const std::string& name)
      : config(read_config(folder(name))),
        loaded(load_weights(config, folder(name), DType::f32, test_device())),
        expected(Safetensors::open(folder(name) / "golden.safetensors")) {}

  static std::filesystem::path folder(const std::string& name) {
    return std::filesystem::path(FULGUR_SOURCE) / "tests/golden" / name;
  }
  std::vector<float> floats(const std::string& name) const {
    const StoredTensor& t = expected.at(name);
    std::vector<float> values(size_t(t.count()));
    read_as(DType::f32, reinterpret_cast<std::byte*>(values.data()), t);
    return values;
  }
  std::vector<int32_t> ints(const std::string& name) const {
    const StoredTensor& t = expected.at(name);
    std::vector<int32_t> values(size_t(t.count()));
    std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
    return values;
  }
};

// All rows of a run through the engine.
struct EngineRows {
  Buffer memory;
  Trace trace;

  EngineRows(const ModelConfig& c, int64_t tokens, DType run_type = DType::f32);
  const float* hidden(int64_t row) const { return trace.hidden.rows(row, row + 1).elements<float>(); }
  const float* logits(int64_t row) const { return trace.logits.rows(row, row + 1).elements<float>(); }
};

}  // namespace fulgur::tests
