#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "files/digest.h"
#include "files/safetensors.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kAlign = 64;  // of the data's begin in the file, and of the buffers that are filled

int64_t bytes_of(const TensorToWrite& tensor) {
  int64_t bytes = byte_size(tensor.dtype);
  for (const int64_t dim : tensor.shape) bytes *= dim;
  return bytes;
}

std::string header_of(std::span<const TensorToWrite> tensors, const Metadata& metadata) {
  Json header = {{"__metadata__", metadata}};
  int64_t begin = 0;
  for (const TensorToWrite& t : tensors) {
    const int64_t end = begin + bytes_of(t);
    expect(!header.contains(t.name), "each tensor of a file has its own name");
    header[t.name] = {{"dtype", file_name_of(t.dtype)}, {"shape", t.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.resize((sizeof(uint64_t) + text.size() + kAlign - 1) / kAlign * kAlign - sizeof(uint64_t), ' ');
  return text;
}

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte, Free>;

Memory aligned_memory(size_t bytes) {
  const size_t whole = std::max((bytes + kAlign - 1) / kAlign, size_t(1)) * kAlign;
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(kAlign, whole)));
  if (!memory)
    fail(ErrorKind::out_of_memory, "out of memory: " + std::to_string(whole) + " bytes asked to write a tensor");
  return memory;
}

}  // namespace

std::string write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                              const Metadata& metadata) {
  int64_t largest = 0;
  for (const TensorToWrite& t : tensors) largest = std::max(largest, bytes_of(t));
  const Memory memory = aligned_memory(size_t(largest));
  AtomicFile file(path);
  Digest digest;
  const auto write = [&](std::span<const std::byte> bytes) { file.write(bytes), digest.add(bytes); };
  const std::string header = header_of(tensors, metadata);
  std::byte length[sizeof(uint64_t)];
  for (size_t i = 0; i < sizeof length; ++i) length[i] = std::byte(uint64_t(header.size()) >> (8 * i) & 0xff);
  write(length);
  write(std::as_bytes(std::span(header)));
  for (const TensorToWrite& t : tensors) {
    t.produce(memory.get());
    write({memory.get(), size_t(bytes_of(t))});
  }
  file.commit();
  return digest.text();
}

void write_shards(const std::filesystem::path& folder, std::span<const TensorToWrite> tensors,
                  int64_t max_shard_bytes) {
  std::vector<size_t> ends;  // of the shards, into tensors
  int64_t total = 0, shard = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t bytes = bytes_of(tensors[i]);
    if (shard > 0 && shard + bytes > max_shard_bytes) ends.push_back(i), shard = 0;
    shard += bytes, total += bytes;
  }
  ends.push_back(tensors.size());
  if (ends.size() == 1) return void(write_safetensors(folder / kModelFile, tensors));

  Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", Json::object()}};
  size_t begin = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, ends.size());
    for (size_t t = begin; t < ends[i]; ++t) index["weight_map"][tensors[t].name] = name;
    write_safetensors(folder / name, tensors.subspan(begin, ends[i] - begin));
    begin = ends[i];
  }
  write_file(folder / kIndexFile, index.dump(2) + "\n");
}

}  // namespace fulgur
