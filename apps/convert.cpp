// fulgur convert: the same model in another element type or other shards, shard by shard; all it does not change is
// kept.
#include <cstdio>
#include <set>

#include "apps/commands.h"
#include "base/progress.h"
#include "files/json_file.h"
#include "model/checkpoint.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string model, out, format, dtype;
  int64_t max_shard_bytes = kMaxShardBytes;
};

void judge_format(const ConvertOptions& options, const ModelConfig& config) {
  if (options.format == "minimax" && config.family != Family::minimax)
    fail(ErrorKind::unsupported,
         "--format minimax: writing that family is not supported yet, expected minimax_text_01");
  if (options.format == "minimax_text_01" && config.family != Family::minimax_text_01)
    fail(ErrorKind::unsupported, "--format minimax_text_01: " + options.model + " is of type " + config.model_type +
                                     ", whose conversion is not supported yet; expected minimax_text_01 or minimax_m1");
}

class Counter {
 public:
  explicit Counter(int64_t tensors) : progress_("tensor", tensors, "bytes") {}
  void add(int64_t bytes) { progress_.update(++tensors_, bytes_ += bytes); }

 private:
  Progress progress_;
  int64_t tensors_ = 0, bytes_ = 0;
};

DType converted_type(const ConvertOptions& options, DType stored) {
  if (options.dtype == "f32") return DType::f32;
  if (options.dtype == "bf16") return DType::bf16;
  return stored;
}

// Each tensor is read when its turn to be written comes, and counted then.
std::vector<TensorToWrite> tensors_of(const ConvertOptions& options, const Checkpoint& checkpoint, Counter& counter) {
  std::vector<TensorToWrite> tensors;
  for (const Safetensors& shard : checkpoint.shards())
    for (const StoredTensor& t : shard.tensors()) {
      const DType type = converted_type(options, t.dtype);
      tensors.push_back({t.name, type, t.shape, [&shard, &t, &counter, type](std::byte* out) {
                           read_as(type, out, t);
                           shard.forget(t);
                           counter.add(int64_t(t.bytes.size()));
                         }});
    }
  return tensors;
}

// The configuration's own text; only the element type it states follows the weights.
std::string config_text(const ConvertOptions& options, const fs::path& file) {
  std::string text = read_text(file);
  const std::string name = options.dtype == "bf16" ? "\"bfloat16\"" : "\"float32\"";
  if (!options.dtype.empty())
    for (const char* key : {"torch_dtype", "dtype"}) text = with_value(text, key, name);
  return text;
}

// Tokenizer, chat template, generation settings, licence: whatever is neither configuration nor weights.
void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    const bool weights = name.starts_with("model") && (name.ends_with(".safetensors") || name == kIndexFile);
    if (entry.is_regular_file() && name != "config.json" && !weights) fs::copy_file(entry.path(), to / name);
  }
}

void run_convert(const ConvertOptions& options) {
  const fs::path model = options.model;
  std::error_code ignored;
  if (!fs::is_directory(model, ignored)) fail(ErrorKind::not_found, options.model + ": no such folder");
  const std::string text = config_text(options, model / "config.json");
  const ModelConfig config = parse_config(text, (model / "config.json").string(), int64_t(0));
  judge_format(options, config);
  const Checkpoint checkpoint = Checkpoint::open(model);
  require_complete(config, checkpoint);

  AtomicFolder out(options.out);
  Counter counter(int64_t(checkpoint.names().size()));
  const std::vector<TensorToWrite> tensors = tensors_of(options, checkpoint, counter);
  try {
    copy_other_files(model, out.path());
  } catch (const fs::filesystem_error& error) {
    fail(ErrorKind::not_found, error.path1().string() + ": cannot be copied: " + error.code().message());
  }
  write_file(out.path() / "config.json", text);
  write_shards(out.path(), tensors, options.max_shard_bytes);
  out.commit();
  std::printf("%s: %zu tensors\n", options.out.c_str(), tensors.size());
}

}  // namespace

void add_convert(CLI::App& app) {
  const auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand("convert", "Writes a model in another element type or with other shards");
  command->add_option("MODEL", options->model, "Hugging Face directory")->required();
  command->add_option("OUT", options->out, "new directory")->required();
  command->add_option("--format", options->format, "family of names and keys; default: the model's")
      ->check(CLI::IsMember({"minimax_text_01", "minimax"}));
  command->add_option("--dtype", options->dtype, "f32 or bf16; default: each tensor's own")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->add_option("--max-shard-bytes", options->max_shard_bytes, "bytes of a shard's tensors, at most")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 50))
      ->capture_default_str();
  command->callback([options] { run_convert(*options); });
}

}  // namespace fulgur
