// A model's weights on disk: a Hugging Face folder to views into one flat buffer, and back.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "files/safetensors.h"
#include "model/weights.h"

namespace fulgur {

// Memory and the views into it.
struct LoadedWeights {
  Buffer flat, decays, expert_values, expert_scales;  // the last two of int8 experts
  ModelWeights weights;
};

// Zeroed weights of a model, with their decays: the buffers that loading and training fill.
// Throws out_of_memory before any work.
LoadedWeights allocate_weights(const ModelConfig& config, DType run_type, DeviceId device = {});

// The folder's weights, converted to run_type (f32, f64 or bf16) shard by shard. Throws corrupt_file naming the tensor
// that is missing, unexpected, or of another shape or type than the configuration asks for; transformers' four decay
// buffers are ignored.
LoadedWeights load_weights(const ModelConfig& config, const std::filesystem::path& folder, DType run_type,
                           DeviceId device = {});
// The same into the parameters of a flat buffer that exists, of any of these types.
void load_weights_into(const ModelWeights& weights, const ModelConfig& config, const std::filesystem::path& folder);

// What load_weights judges, without reading a weight.
void require_complete(const ModelConfig& config, const Checkpoint& checkpoint);

// Names that the configuration asks for and the file lacks, and those of the file that nobody asks for.
struct NameGap {
  std::vector<std::string> missing, unexpected;
  int64_t found = 0;
};
NameGap compare_names(const ModelConfig& config, const std::vector<std::string>& stored);

// Names of the shard's tensors whose shape or type is not the one that the configuration asks for.
std::vector<std::string> misshapen(const ModelConfig& config, const Safetensors& shard);

// The parameters of any flat buffer with the model's offsets (weights, moments, gradients) under checkpoint names, in
// the file's order of rows; int8 experts and their scales in their own types. What their device was told before must be
// done when they are written; w outlives that.
std::vector<TensorToWrite> tensors_of(const ModelWeights& w, DType file_type);

// Writes the weights as file_type into an existing folder: config.json with this very text, and shards of
// at most max_shard_bytes (a tensor larger than that has its own).
void write_model(const std::filesystem::path& folder, const std::string& config_text, const ModelWeights& weights,
                 DType file_type, int64_t max_shard_bytes = kMaxShardBytes);

// tensors_of as one file. Returns the digest of the file's bytes.
std::string save_parameters(const std::filesystem::path& file, const ModelWeights& weights, DType file_type);

// The reverse of save_parameters. Throws corrupt_file unless names and shapes are those of the weights.
void load_parameters(const std::filesystem::path& file, const ModelWeights& weights);

// The type that most of the checkpoint's weights are stored in, int8 ones apart: what a run uses unless told otherwise.
DType stored_type(const Checkpoint& checkpoint);

}  // namespace fulgur
