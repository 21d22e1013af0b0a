// safetensors: named tensors in one file, or in the shards of a folder. Every number that a file states is judged
// before a byte is read: what does not fit throws corrupt_file naming the file and the tensor.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "files/atomic.h"
#include "files/mmap.h"

namespace fulgur {

struct StoredTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // of the mapped file; need not be aligned to the element

  int64_t count() const;
  std::string describe() const;  // "F32 [2, 3]"
};

// Name of an element type in a file: "F32", "BF16".
const char* file_name_of(DType dtype);

constexpr bool is_float(DType t) { return t == DType::f64 || t == DType::f32 || t == DType::bf16 || t == DType::f16; }

// count elements from `from` to `to`, neither aligned. From f64, f32, bf16 or f16 to f64, f32 or bf16, rounded once to
// nearest even from the exact value; equal types copy bytes.
void convert_elements(std::byte* to, DType to_type, const std::byte* from, DType from_type, int64_t count);

// The tensor's elements as `to`. Throws corrupt_file for a tensor of integers.
void read_as(DType to, std::byte* out, const StoredTensor& tensor);

using Metadata = std::map<std::string, std::string>;

// One file.
class Safetensors {
 public:
  static Safetensors open(const std::filesystem::path& path);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in order of their bytes
  const StoredTensor* find(std::string_view name) const;                 // null where there is none
  const StoredTensor& at(std::string_view name) const;                   // throws corrupt_file where there is none
  const Metadata& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }
  void forget(const StoredTensor& tensor) const { file_.forget(tensor.bytes); }

 private:
  explicit Safetensors(MappedFile file) : file_(std::move(file)) {}
  MappedFile file_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  Metadata metadata_;
};

// All tensors of a model folder: model.safetensors.index.json and its shards, or else model.safetensors.
class Checkpoint {
 public:
  static Checkpoint open(const std::filesystem::path& folder);

  const std::vector<Safetensors>& shards() const { return shards_; }
  const StoredTensor* find(std::string_view name) const;
  std::vector<std::string> names() const;  // shard by shard
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
  std::vector<Safetensors> shards_;
  std::map<std::string_view, const StoredTensor*> by_name_;
};

// The index of a sharded folder: tensor name to file name, in the index's order.
struct ShardIndex {
  std::vector<std::pair<std::string, std::string>> weight_map;
  std::vector<std::string> files() const;  // each once, in order of first mention
};
// Throws not_found, corrupt_file; refuses a shard that is not a plain name inside the folder.
ShardIndex read_index(const std::filesystem::path& file);

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";
inline constexpr int64_t kMaxShardBytes = int64_t(5'000'000'000);

// A tensor to be written: `produce` is called once, when its turn comes, with room for its bytes, aligned to 64.
struct TensorToWrite {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::function<void(std::byte* out)> produce;
};

// One file, in the order given. Returns the digest of its bytes.
std::string write_safetensors(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
                              const Metadata& metadata = {{"format", "pt"}});

// Shards of at most max_shard_bytes into an existing folder, in the order given: model.safetensors where one is enough,
// else model-0000i-of-0000n.safetensors and the index. A tensor larger than the limit has its own shard.
void write_shards(const std::filesystem::path& folder, std::span<const TensorToWrite> tensors,
                  int64_t max_shard_bytes = kMaxShardBytes);

}  // namespace fulgur
