#include "model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "device/transfer.h"
#include "files/json_file.h"
#include "model/decay_buffers.h"

namespace fulgur {
namespace {

[[noreturn]] void refuse(const std::filesystem::path& where, const std::string& what) {
  fail(ErrorKind::corrupt_file, where.string() + ": " + what);
}

std::vector<int64_t> shape_of(const Tensor& t) { return {t.shape.begin(), t.shape.begin() + t.rank}; }

ModelWeights names_of(const ModelConfig& config) {
  return views_of(config, contiguous(nullptr, DType::f32, {}, {flat_elements(config)}));
}

std::map<std::string_view, const Parameter*> by_name(const ModelWeights& w) {
  std::map<std::string_view, const Parameter*> result;
  for (const Parameter& p : w.parameters) result.emplace(p.checkpoint_name, &p);
  return result;
}

bool has_type(const StoredTensor& t, const Parameter& want) {
  return want.view.dtype == DType::i8 ? t.dtype == DType::i8 : is_float(t.dtype);
}

void judge(const std::filesystem::path& file, const StoredTensor& t, const Parameter& want) {
  const StoredTensor expected{.name = t.name,
                              .dtype = want.view.dtype == DType::i8 ? DType::i8 : t.dtype,
                              .shape = shape_of(want.view),
                              .bytes = {}};
  const bool right = has_type(t, want), any = !right && want.view.dtype != DType::i8;
  if (t.shape != expected.shape || !right)
    refuse(file, "tensor " + in_quotes(t.name) + " is " + t.describe() + ", expected " +
                     (any ? "F64, F32, BF16 or F16 of " : "") + expected.describe());
}

// A scale that is none would make numbers of a whole row that are none.
void judge_scales(const std::byte* scales, const StoredTensor& t) {
  for (int64_t i = 0; i < t.count(); ++i) {
    float scale = 0;
    std::memcpy(&scale, scales + i * int64_t(sizeof scale), sizeof scale);
    if (!std::isfinite(scale))
      fail(ErrorKind::corrupt_file,
           "tensor " + in_quotes(t.name) + ": number " + std::to_string(i) + " is not finite, expected a scale");
  }
}

int64_t row_bytes(const Parameter& p, DType type) { return p.view.count() / p.view.dim(0) * byte_size(type); }

// The tensor's elements as the parameter holds them, in main memory.
void read_rows(const Parameter& p, std::byte* out, const StoredTensor& t) {
  read_as(p.view.dtype, out, t);
  if (p.kind == ParameterKind::scale) judge_scales(out, t);
  from_file_order(p.rows, out, p.view.dim(0), row_bytes(p, p.view.dtype));
}

// Writes one tensor where the parameter lies, through main memory where that is on another device.
void place(Stream& stream, const Parameter& p, const StoredTensor& t) {
  if (!p.view.device.is_cuda()) return read_rows(p, p.view.data, t);
  const Buffer staging(size_t(p.view.bytes()), Purpose::workspace);
  read_rows(p, staging.data(), t);
  Tensor host = p.view;
  host.data = staging.data(), host.device = {};
  copy(stream, p.view, host);
  stream.synchronize();
}

void fill(const ModelWeights& weights, const Checkpoint& checkpoint) {
  Stream stream(weights.flat.device);
  const auto parameters = by_name(weights);
  for (const Safetensors& shard : checkpoint.shards())
    for (const StoredTensor& t : shard.tensors()) {
      const auto found = parameters.find(t.name);
      if (found == parameters.end()) continue;
      place(stream, *found->second, t);
      shard.forget(t);
    }
}

}  // namespace

std::vector<TensorToWrite> tensors_of(const ModelWeights& w, DType file_type) {
  const auto stream = std::make_shared<Stream>(w.flat.device);
  std::vector<TensorToWrite> tensors;
  for (const Parameter& p : w.parameters) {
    const bool own = p.view.dtype == DType::i8 || p.kind == ParameterKind::scale;
    const DType type = own ? p.view.dtype : file_type;
    tensors.push_back({p.checkpoint_name, type, shape_of(p.view), [&p, type, stream](std::byte* out) {
                         const auto convert = [&](std::span<const std::byte> elements) {
                           convert_elements(out, type, elements.data(), p.view.dtype, p.view.count());
                         };
                         for_bytes(*stream, p.view, convert, p.view.bytes());
                         to_file_order(p.rows, out, p.view.dim(0), row_bytes(p, type));
                       }});
  }
  return tensors;
}

LoadedWeights allocate_weights(const ModelConfig& config, DType run_type, DeviceId device) {
  const int64_t elements = flat_elements(config);
  LoadedWeights loaded;
  loaded.flat = Buffer(size_t(elements * byte_size(run_type)), Purpose::weights, device);
  loaded.decays = Buffer(size_t(config.layers * config.heads * byte_size(wide(run_type))), Purpose::weights, device);
  QuantisedExperts quantised;
  if (config.int8_experts) {
    const auto [values, scales] = quantised_elements(config);
    loaded.expert_values = Buffer(size_t(values), Purpose::weights, device);
    loaded.expert_scales = Buffer(size_t(scales) * sizeof(float), Purpose::weights, device);
    quantised = {loaded.expert_values.tensor(DType::i8, {values}), loaded.expert_scales.tensor(DType::f32, {scales})};
  }
  loaded.weights = views_of(config, loaded.flat.tensor(run_type, {elements}), quantised);
  fill_decays(config, loaded.weights, loaded.decays.tensor(wide(run_type), {config.layers, config.heads}));
  return loaded;
}

LoadedWeights load_weights(const ModelConfig& config, const std::filesystem::path& folder, DType run_type,
                           DeviceId device) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  require_complete(config, checkpoint);
  LoadedWeights loaded = allocate_weights(config, run_type, device);
  fill(loaded.weights, checkpoint);
  return loaded;
}

void load_weights_into(const ModelWeights& weights, const ModelConfig& config, const std::filesystem::path& folder) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  require_complete(config, checkpoint);
  fill(weights, checkpoint);
}

void require_complete(const ModelConfig& config, const Checkpoint& checkpoint) {
  const ModelWeights wanted = names_of(config);
  const auto parameters = by_name(wanted);
  for (const Safetensors& shard : checkpoint.shards())
    for (const StoredTensor& t : shard.tensors()) {
      const auto found = parameters.find(t.name);
      if (found != parameters.end()) judge(shard.path(), t, *found->second);
      else if (!is_decay_buffer(t.name))
        refuse(shard.path(),
               "tensor " + in_quotes(t.name) + " is unexpected: the configuration asks for no such tensor");
    }
  for (const Parameter& p : wanted.parameters)
    if (!checkpoint.find(p.checkpoint_name))
      refuse(checkpoint.folder(), "tensor " + in_quotes(p.checkpoint_name) + " is missing");
}

NameGap compare_names(const ModelConfig& config, const std::vector<std::string>& stored) {
  const ModelWeights wanted = names_of(config);
  const auto parameters = by_name(wanted);
  const std::set<std::string_view> have(stored.begin(), stored.end());
  NameGap gap;
  for (const std::string& name : stored)
    if (!parameters.contains(name) && !is_decay_buffer(name)) gap.unexpected.push_back(name);
  for (const Parameter& p : wanted.parameters) {
    if (have.contains(p.checkpoint_name)) ++gap.found;
    else gap.missing.push_back(p.checkpoint_name);
  }
  return gap;
}

std::vector<std::string> misshapen(const ModelConfig& config, const Safetensors& shard) {
  const ModelWeights wanted = names_of(config);
  const auto parameters = by_name(wanted);
  std::vector<std::string> names;
  for (const StoredTensor& t : shard.tensors()) {
    const auto found = parameters.find(t.name);
    if (found != parameters.end() && (t.shape != shape_of(found->second->view) || !has_type(t, *found->second)))
      names.push_back(t.name);
  }
  return names;
}

void write_model(const std::filesystem::path& folder, const std::string& config_text, const ModelWeights& weights,
                 DType file_type, int64_t max_shard_bytes) {
  write_file(folder / "config.json", config_text);
  write_shards(folder, tensors_of(weights, file_type), max_shard_bytes);
}

std::string save_parameters(const std::filesystem::path& file, const ModelWeights& weights, DType file_type) {
  return write_safetensors(file, tensors_of(weights, file_type));
}

void load_parameters(const std::filesystem::path& path, const ModelWeights& weights) {
  const Safetensors file = Safetensors::open(path);
  const auto parameters = by_name(weights);
  for (const StoredTensor& t : file.tensors()) {
    const auto found = parameters.find(t.name);
    if (found == parameters.end()) refuse(path, "tensor " + in_quotes(t.name) + " is unexpected");
    judge(path, t, *found->second);
  }
  Stream stream(weights.flat.device);
  for (const Parameter& p : weights.parameters) place(stream, p, file.at(p.checkpoint_name));
}

DType stored_type(const Checkpoint& checkpoint) {
  std::map<DType, int64_t> elements;
  for (const Safetensors& shard : checkpoint.shards())
    for (const StoredTensor& t : shard.tensors())
      if (!is_decay_buffer(t.name) && is_float(t.dtype)) elements[t.dtype] += t.count();
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == elements.end() ? DType::bf16 : most->first;
}

}  // namespace fulgur
