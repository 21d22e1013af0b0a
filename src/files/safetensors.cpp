#include "files/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "files/json_file.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr DType kFileTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                                DType::i8,  DType::u8,  DType::i32,  DType::i64};

[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& what) {
  fail(ErrorKind::corrupt_file, file.string() + ": " + what);
}

DType type_named(const Json& value, const std::string& where) {
  std::string names;
  for (const DType type : kFileTypes) {
    if (value.is_string() && value.get_ref<const std::string&>() == file_name_of(type)) return type;
    names += (names.empty() ? "" : ", ") + std::string(file_name_of(type));
  }
  fail(ErrorKind::corrupt_file,
       where + ": dtype " + in_quotes(value.dump(-1, ' ', true)) + ", expected one of " + names);
}

int64_t whole_number(const Json& value, const std::string& where, const char* what) {
  const bool whole = value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  if (!whole || value.get<int64_t>() < 0)
    fail(ErrorKind::corrupt_file,
         where + ": " + what + " holds " + in_quotes(value.dump(-1, ' ', true)) + ", expected a whole number from 0");
  return value.get<int64_t>();
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  if (!object.is_object() || !object.contains(key))
    fail(ErrorKind::corrupt_file,
         where + ": expected an object with dtype, shape and data_offsets; " + key + " is missing");
  return object.at(key);
}

// One entry of the header. data: the bytes after the header.
StoredTensor tensor_of(const std::string& name, const Json& entry, std::span<const std::byte> data,
                       const std::string& file) {
  const std::string where = file + ": tensor " + in_quotes(name);
  StoredTensor t{.name = name, .dtype = type_named(member(entry, "dtype", where), where), .shape = {}, .bytes = {}};
  const Json &shape = member(entry, "shape", where), &offsets = member(entry, "data_offsets", where);
  if (!shape.is_array()) fail(ErrorKind::corrupt_file, where + ": the shape is no list");
  int64_t bytes = byte_size(t.dtype);
  for (const Json& dim : shape) {
    t.shape.push_back(whole_number(dim, where, "the shape"));
    if (__builtin_mul_overflow(bytes, t.shape.back(), &bytes))
      fail(ErrorKind::corrupt_file, where + ": the shape " + in_quotes(shape.dump()) + " overflows 64 bits");
  }
  if (!offsets.is_array() || offsets.size() != 2)
    fail(ErrorKind::corrupt_file,
         where + ": data_offsets is " + in_quotes(offsets.dump(-1, ' ', true)) + ", expected two numbers");
  const int64_t begin = whole_number(offsets[0], where, "data_offsets"),
                end = whole_number(offsets[1], where, "data_offsets");
  if (begin > end || uint64_t(end) > data.size())
    fail(ErrorKind::corrupt_file, where + ": bytes " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
                                      std::to_string(data.size()) + " do not exist");
  if (end - begin != bytes)
    fail(ErrorKind::corrupt_file, where + ": " + t.describe() + " takes " + std::to_string(bytes) +
                                      " bytes, data_offsets state " + std::to_string(end - begin));
  t.bytes = data.subspan(size_t(begin), size_t(bytes));
  return t;
}

Metadata metadata_of(const Json& metadata, const std::filesystem::path& file) {
  if (!metadata.is_object()) refuse(file, "__metadata__ is no object");
  Metadata result;
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) refuse(file, "__metadata__ " + in_quotes(key) + " is no text");
    result[key] = value.get<std::string>();
  }
  return result;
}

// Sorted by their bytes, they cover the data end to end.
void require_tiled(const std::vector<StoredTensor>& tensors, std::span<const std::byte> data,
                   const std::filesystem::path& file) {
  const std::byte* next = data.data();
  const std::string* last = nullptr;
  for (const StoredTensor& t : tensors) {
    const std::ptrdiff_t gap = t.bytes.data() - next;
    if (gap < 0) refuse(file, "tensor " + in_quotes(t.name) + " overlaps " + in_quotes(*last));
    if (gap > 0)
      refuse(file,
             "tensor " + in_quotes(t.name) + " begins " + std::to_string(gap) + " bytes after the one before it ends");
    next = t.bytes.data() + t.bytes.size(), last = &t.name;
  }
  const std::ptrdiff_t rest = data.data() + data.size() - next;
  if (rest != 0) refuse(file, std::to_string(rest) + " bytes after the last tensor belong to none");
}

std::string_view header_of(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  uint64_t length = 0;
  if (bytes.size() < sizeof length)
    refuse(file.path(), std::to_string(bytes.size()) + " bytes, expected a header length of 8 and a header");
  for (size_t i = 0; i < sizeof length; ++i) length |= uint64_t(bytes[i]) << (8 * i);
  if (length > kMaxHeaderBytes || length > bytes.size() - sizeof length)
    refuse(file.path(), "a header of " + std::to_string(length) + " bytes is stated, the file has " +
                            std::to_string(bytes.size() - sizeof length) + " after its length; at most " +
                            std::to_string(kMaxHeaderBytes) + " are read");
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
  if (header.empty() || header[0] != '{') refuse(file.path(), "the header does not begin with {");
  return header;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

}  // namespace

int64_t StoredTensor::count() const { return int64_t(bytes.size()) / byte_size(dtype); }

std::string StoredTensor::describe() const {
  std::string text = std::string(file_name_of(dtype)) + " [";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

const char* file_name_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return "F64";
    case DType::f32: return "F32";
    case DType::bf16: return "BF16";
    case DType::f16: return "F16";
    case DType::i8: return "I8";
    case DType::u8: return "U8";
    case DType::i32: return "I32";
    case DType::i64: return "I64";
  }
  return "?";
}

Safetensors Safetensors::open(const std::filesystem::path& path) {
  Safetensors result{MappedFile(path)};
  const std::string_view header = header_of(result.file_);
  const std::span<const std::byte> data = result.file_.bytes().subspan(sizeof(uint64_t) + header.size());
  const Json parsed = parse_object(header, path.string());
  for (const auto& [name, entry] : parsed.items()) {
    if (name == "__metadata__") result.metadata_ = metadata_of(entry, path);
    else result.tensors_.push_back(tensor_of(name, entry, data, path.string()));
  }
  std::sort(result.tensors_.begin(), result.tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  require_tiled(result.tensors_, data, path);
  for (size_t i = 0; i < result.tensors_.size(); ++i) result.by_name_.emplace(result.tensors_[i].name, i);
  return result;
}

const StoredTensor* Safetensors::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const StoredTensor& Safetensors::at(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  if (!tensor) refuse(path(), "tensor " + in_quotes(name) + " is missing");
  return *tensor;
}

std::vector<std::string> ShardIndex::files() const {
  std::vector<std::string> result;
  std::set<std::string_view> seen;
  for (const auto& [name, file] : weight_map)
    if (seen.insert(file).second) result.push_back(file);
  return result;
}

ShardIndex read_index(const std::filesystem::path& file) {
  const Json index = parse_object(read_text(file), file.string());
  if (!index.contains("weight_map") || !index.at("weight_map").is_object())
    refuse(file, "expected an object with the object weight_map");
  ShardIndex result;
  for (const auto& [name, shard] : index.at("weight_map").items()) {
    if (!shard.is_string() || !is_plain_name(shard.get_ref<const std::string&>()))
      refuse(file, "tensor " + in_quotes(name) + " lies in " + in_quotes(shard.dump(-1, ' ', true)) +
                       ", expected the name of a file in the same folder");
    result.weight_map.emplace_back(name, shard.get<std::string>());
  }
  return result;
}

Checkpoint Checkpoint::open(const std::filesystem::path& folder) {
  Checkpoint result;
  result.folder_ = folder;
  const std::filesystem::path index_file = folder / kIndexFile;
  std::error_code ignored;
  const bool sharded = std::filesystem::exists(index_file, ignored);
  const ShardIndex index = sharded ? read_index(index_file) : ShardIndex{};
  std::map<std::string, size_t> number;
  for (const std::string& shard : sharded ? index.files() : std::vector<std::string>{kModelFile}) {
    if (sharded && !std::filesystem::is_regular_file(folder / shard, ignored))
      refuse(index_file, "names the shard " + in_quotes(shard) + ", which is missing");
    number.emplace(shard, result.shards_.size());
    result.shards_.push_back(Safetensors::open(folder / shard));
  }
  for (const Safetensors& shard : result.shards_)
    for (const StoredTensor& t : shard.tensors())
      if (!result.by_name_.emplace(t.name, &t).second)
        refuse(shard.path(), "tensor " + in_quotes(t.name) + " is in another shard too");
  for (const auto& [name, shard] : index.weight_map)
    if (!result.shards_[number.at(shard)].find(name))
      refuse(folder / shard, "tensor " + in_quotes(name) + " is missing, which " + kIndexFile + " looks for here");
  return result;
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const Safetensors& shard : shards_)
    for (const StoredTensor& t : shard.tensors()) result.push_back(t.name);
  return result;
}

}  // namespace fulgur
