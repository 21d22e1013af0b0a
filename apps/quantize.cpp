// fulgur quantize: the same model with its experts in int8, tensor by tensor; all else is kept.
#include <cstdio>
#include <cstring>
#include <set>
#include <vector>

#include "apps/commands.h"
#include "apps/model_copy.h"
#include "base/threads.h"
#include "files/json_file.h"
#include "model/checkpoint.h"
#include "model/quantisation.h"
#include "quant/int8.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  std::string model, out, format;
  int64_t max_shard_bytes = kMaxShardBytes;
  int threads = 0;
};

// A matrix of an expert, from the file when its turn comes: first as values, then as scales.
class Quantised {
 public:
  Quantised(Threads& threads, const Safetensors& shard, const StoredTensor& t, TensorCounter& counter)
      : threads_(threads), shard_(shard), t_(t), counter_(counter) {}

  void write_values(std::byte* out) const {
    with_scales([&](const MatrixToQuantise& m, const std::vector<float>& scales) {
      quantise_values(threads_, m, scales.data(), reinterpret_cast<int8_t*>(out));
    });
  }
  void write_scales(std::byte* out) const {
    with_scales([&](const MatrixToQuantise&, const std::vector<float>& scales) {
      std::memcpy(out, scales.data(), scales.size() * sizeof(float));
    });
    shard_.forget(t_);
    counter_.add(int64_t(t_.bytes.size()));
  }

 private:
  template <class Use>
  void with_scales(const Use& use) const {
    std::vector<float> numbers(size_t(t_.count())), scales(size_t(t_.shape[0] * scale_count(t_.shape[1])));
    read_as(DType::f32, reinterpret_cast<std::byte*>(numbers.data()), t_);
    const MatrixToQuantise matrix{numbers.data(), t_.shape[0], t_.shape[1]};
    quantise_scales(threads_, matrix, t_.name, scales.data());
    use(matrix, scales);
  }

  Threads& threads_;
  const Safetensors& shard_;
  const StoredTensor& t_;
  TensorCounter& counter_;
};

// The tensors that become int8.
std::set<std::string> quantised_names(const ModelConfig& config) {
  std::set<std::string> names;
  const ModelWeights shapes = views_of(config, contiguous(nullptr, DType::f32, {}, {flat_elements(config)}));
  for (const Parameter& p : shapes.parameters)
    if (p.view.dtype == DType::i8) names.insert(p.checkpoint_name);
  return names;
}

std::vector<TensorToWrite> tensors_of(Threads& threads, const ModelConfig& quantised, const Checkpoint& checkpoint,
                                      TensorCounter& counter) {
  const std::set<std::string> names = quantised_names(quantised);
  std::vector<TensorToWrite> tensors;
  for (const Safetensors& shard : checkpoint.shards())
    for (const StoredTensor& t : shard.tensors()) {
      if (names.contains(t.name)) {
        const Quantised matrix(threads, shard, t, counter);
        tensors.push_back({t.name, DType::i8, t.shape, [matrix](std::byte* out) { matrix.write_values(out); }});
        tensors.push_back(
            {t.name + "_scale", DType::f32, {t.shape[0], scale_count(t.shape[1])}, [matrix](std::byte* out) {
               matrix.write_scales(out);
             }});
        continue;
      }
      tensors.push_back({t.name, t.dtype, t.shape, [&](std::byte* out) {
                           read_as(t.dtype, out, t);
                           shard.forget(t);
                           counter.add(int64_t(t.bytes.size()));
                         }});
    }
  return tensors;
}

void run_quantize(const QuantizeOptions& options) {
  const fs::path model = options.model;
  std::error_code ignored;
  if (!fs::is_directory(model, ignored)) fail(ErrorKind::not_found, options.model + ": no such folder");
  const std::string origin = (model / "config.json").string(), text = read_text(model / "config.json");
  const ModelConfig config = parse_config(text, origin, int64_t(0));
  if (config.int8_experts)
    fail(ErrorKind::invalid_input, origin +
                                       ": quantization_config: the experts are int8 already; expected the model "
                                       "that was quantised");
  const std::string changed = with_int8_experts(text);
  const ModelConfig quantised = parse_config(changed, origin, int64_t(0));
  const Checkpoint checkpoint = Checkpoint::open(model);
  require_complete(config, checkpoint);

  AtomicFolder out(options.out);
  TensorCounter counter(int64_t(checkpoint.names().size()));
  Threads threads(options.threads > 0 ? options.threads : available_cores());
  const std::vector<TensorToWrite> tensors = tensors_of(threads, quantised, checkpoint, counter);
  copy_other_files(model, out.path());
  write_file(out.path() / "config.json", changed);
  write_shards(out.path(), tensors, options.max_shard_bytes);
  out.commit();
  std::printf("%s: %zu tensors\n", options.out.c_str(), tensors.size());
}

}  // namespace

void add_quantize(CLI::App& app) {
  const auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = app.add_subcommand("quantize", "Writes a model with its experts in int8");
  command->add_option("MODEL", options->model, "Hugging Face directory")->required();
  command->add_option("OUT", options->out, "new directory")->required();
  command
      ->add_option("--format", options->format,
                   "int8: experts' matrices, symmetric, a scale for each row and 128 columns; all else stays")
      ->required()
      ->check(CLI::IsMember({"int8"}));
  command->add_option("--max-shard-bytes", options->max_shard_bytes, "bytes of a shard's tensors, at most")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 50))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "threads; 0: all cores")->check(CLI::Range(0, 4096));
  command->callback([options] { run_quantize(*options); });
}

}  // namespace fulgur
