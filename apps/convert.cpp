// fulgur convert: the same model in the other family's words, another element type or other shards, shard by shard; all
// it does not change is kept.
#include <algorithm>
#include <cstdio>
#include <set>

#include "apps/commands.h"
#include "apps/model_copy.h"
#include "files/json_file.h"
#include "model/checkpoint.h"
#include "model/config_family.h"
#include "model/decay_buffers.h"
#include "model/quantisation.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string model, out, format, dtype;
  int64_t max_shard_bytes = kMaxShardBytes, rotary_dim = 0;
};

Family family_of(const ConvertOptions& options, const ModelConfig& config) {
  if (options.format.empty()) return words_of(config);
  return options.format == "minimax" ? Family::minimax : Family::minimax_text_01;
}

DType converted_type(const ConvertOptions& options, DType stored) {
  if (options.dtype == "f32") return DType::f32;
  if (options.dtype == "bf16") return DType::bf16;
  return stored;
}

// Which tensors hold rows of q and k of softmax attention, and how each of the two folders orders them.
struct RowOrders {
  RowOrders(const ModelConfig& from, const ModelConfig& to) : read(rotary_rows(from)), written(rotary_rows(to)) {
    for (int64_t l = 0; l < from.layers; ++l)
      for (const char* projection : {"q_proj", "k_proj"})
        if (from.attention[size_t(l)] == AttentionKind::softmax)
          names.insert("model.layers." + std::to_string(l) + ".self_attn." + projection + ".weight");
  }
  void reorder(const StoredTensor& t, DType type, std::byte* out) const {
    if (!names.contains(t.name)) return;
    const int64_t row_bytes = t.count() / t.shape[0] * byte_size(type);
    from_file_order(read, out, t.shape[0], row_bytes);
    to_file_order(written, out, t.shape[0], row_bytes);
  }
  RotaryRows read, written;
  std::set<std::string> names;
};

bool is_scale(const std::string& name) { return name.ends_with(".weight_scale"); }

// What an int8 matrix of an expert is worth.
template <class T>
void dequantise(const StoredTensor& t, const StoredTensor& scale_tensor, std::byte* out) {
  const int64_t columns = t.shape[1];
  std::vector<float> scales(size_t(scale_tensor.count()));
  read_as(DType::f32, reinterpret_cast<std::byte*>(scales.data()), scale_tensor);
  for (int64_t i = 0; i < t.count(); ++i) {
    const float scale = scales[size_t(i / columns * scale_count(columns) + i % columns / kScaleColumns)];
    reinterpret_cast<T*>(out)[i] = dequantised<T>(int8_t(t.bytes[size_t(i)]), scale);
  }
}

// Each tensor is read when its turn to be written comes, and counted then.
std::vector<TensorToWrite> tensors_of(const ConvertOptions& options, const Checkpoint& checkpoint, bool with_buffers,
                                      const RowOrders& orders, TensorCounter& counter) {
  std::vector<TensorToWrite> tensors;
  for (const Safetensors& shard : checkpoint.shards())
    for (const StoredTensor& t : shard.tensors()) {
      if (!with_buffers && is_decay_buffer(t.name)) continue;
      const bool dequantises = !options.dtype.empty() && t.dtype == DType::i8;
      if (!options.dtype.empty() && is_scale(t.name)) continue;
      const DType type = converted_type(options, t.dtype);
      tensors.push_back({t.name, type, t.shape, [&, type, dequantises](std::byte* out) {
                           if (!dequantises) read_as(type, out, t);
                           else if (type == DType::bf16) dequantise<bf16>(t, *checkpoint.find(t.name + "_scale"), out);
                           else dequantise<float>(t, *checkpoint.find(t.name + "_scale"), out);
                           orders.reorder(t, type, out);
                           shard.forget(t);
                           counter.add(int64_t(t.bytes.size()));
                         }});
    }
  return tensors;
}

// The model's decays, which transformers' class would compute otherwise.
void append_decays(const ModelConfig& config, TensorCounter& counter, std::vector<TensorToWrite>& tensors) {
  for (TensorToWrite& buffer : decay_buffers(config)) {
    buffer.produce = [produce = std::move(buffer.produce), &counter](std::byte* out) {
      produce(out);
      counter.add(0);  // bytes read
    };
    tensors.push_back(std::move(buffer));
  }
}

// The element type that it states follows the weights.
std::string with_type(const ConvertOptions& options, std::string text) {
  if (!options.dtype.empty()) text = without_int8_experts(text);
  const std::string name = options.dtype == "bf16" ? "\"bfloat16\"" : "\"float32\"";
  if (!options.dtype.empty())
    for (const char* key : {"torch_dtype", "dtype"}) text = with_value(text, key, name);
  return text;
}

void run_convert(const ConvertOptions& options) {
  const fs::path model = options.model;
  std::error_code ignored;
  if (!fs::is_directory(model, ignored)) fail(ErrorKind::not_found, options.model + ": no such folder");
  const std::string text = read_text(model / "config.json");
  // Where the family stays, how much of a head is rotated may be left open.
  ModelConfig config = parse_config(text, (model / "config.json").string(), int64_t(0));
  const Family family = family_of(options, config);
  const bool stays = family == words_of(config);
  if (!stays) {
    const auto rotary = options.rotary_dim ? std::optional(options.rotary_dim) : std::nullopt;
    config = parse_config(text, (model / "config.json").string(), rotary);
  }
  if (!stays && config.int8_experts && options.dtype.empty())
    fail(ErrorKind::unsupported, "--format " + options.format + ": the experts of " + options.model +
                                     " are int8, which that family does not state; expected --dtype too, which "
                                     "dequantises them");
  const std::string converted = with_type(options, config_in_family(text, config, family));
  const RowOrders orders(config, parse_config(converted, "the converted config.json", int64_t(0)));
  const Checkpoint checkpoint = Checkpoint::open(model);
  require_complete(config, checkpoint);

  AtomicFolder out(options.out);
  const std::vector<std::string> names = checkpoint.names();
  auto dropped = stays ? 0 : std::count_if(names.begin(), names.end(), is_decay_buffer);
  if (config.int8_experts && !options.dtype.empty()) dropped += std::count_if(names.begin(), names.end(), is_scale);
  const int64_t added = !stays && family == Family::minimax ? 4 * config.lightning_layers() : 0;
  TensorCounter counter(int64_t(names.size()) - dropped + added);
  std::vector<TensorToWrite> tensors = tensors_of(options, checkpoint, stays, orders, counter);
  if (added > 0) append_decays(config, counter, tensors);
  copy_other_files(model, out.path());
  write_file(out.path() / "config.json", converted);
  write_shards(out.path(), tensors, options.max_shard_bytes);
  out.commit();
  std::printf("%s: %zu tensors\n", options.out.c_str(), tensors.size());
}

}  // namespace

void add_convert(CLI::App& app) {
  const auto options = std::make_shared<ConvertOptions>();
  CLI::App* command =
      app.add_subcommand("convert", "Writes a model in the other family's words, another element type or other shards");
  command->add_option("MODEL", options->model, "Hugging Face directory")->required();
  command->add_option("OUT", options->out, "new directory")->required();
  command->add_option("--format", options->format, "family of names and keys; default: the model's")
      ->check(CLI::IsMember({"minimax_text_01", "minimax"}));
  command->add_option("--dtype", options->dtype, "f32 or bf16, int8 experts too; default: each tensor's own")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->add_option("--rotary-dim", options->rotary_dim,
                      "rotated dims of each head, where a `minimax` config leaves it open");
  command->add_option("--max-shard-bytes", options->max_shard_bytes, "bytes of a shard's tensors, at most")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 50))
      ->capture_default_str();
  command->callback([options] { run_convert(*options); });
}

}  // namespace fulgur
