#include "data/token_shards.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "files/digest.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& file, const std::string& what) {
  fail(ErrorKind::corrupt_file, file.string() + ": " + what);
}

// The elements of a shard's tensor where they lie.
template <class T>
std::span<const T> elements(const Safetensors& file, const char* name, DType type, const std::vector<int64_t>& shape) {
  const StoredTensor& tensor = file.at(name);
  if (tensor.dtype != type || tensor.shape != shape) {
    const StoredTensor expected{.name = name, .dtype = type, .shape = shape, .bytes = {}};
    refuse(file.path(),
           std::string("tensor ") + name + " is " + tensor.describe() + ", index.json expects " + expected.describe());
  }
  if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % sizeof(T) != 0)
    refuse(file.path(), std::string("tensor ") + name + " does not lie on a multiple of its element's bytes");
  return {reinterpret_cast<const T*>(tensor.bytes.data()), tensor.bytes.size() / sizeof(T)};
}

template <class T>
void copy_to(std::byte* out, const std::vector<T>& from) {
  if (!from.empty()) std::memcpy(out, from.data(), from.size() * sizeof(T));
}

}  // namespace

std::span<const int32_t> TokenShards::Source::document(int64_t i) const {
  const Shard& shard = shard_of(i);
  return shard.tokens.subspan(size_t(shard.begin[size_t(i)]),
                              size_t(shard.begin[size_t(i) + 1] - shard.begin[size_t(i)]));
}

int64_t TokenShards::Source::bytes(int64_t i) const {
  const Shard& shard = shard_of(i);
  return shard.bytes[size_t(i)];
}

int32_t TokenShards::Source::label(int64_t i) const {
  const Shard& shard = shard_of(i);
  return shard.label[size_t(i)];
}

std::array<int64_t, 2> TokenShards::Source::origin(int64_t i) const {
  const Shard& shard = shard_of(i);
  return {shard.origin[size_t(2 * i)], shard.origin[size_t(2 * i) + 1]};
}

const TokenShards::Source::Shard& TokenShards::Source::shard_of(int64_t& document) const {
  expect(document >= 0 && document < documents(), "a document of the source");
  const size_t place = size_t(std::upper_bound(first_.begin(), first_.end(), document) - first_.begin()) - 1;
  document -= first_[place];
  return shards_[place];
}

TokenShards::Source::Shard TokenShards::Source::open_shard(const fs::path& folder, const ShardEntry& entry) {
  Shard shard{.file = Safetensors::open(folder / entry.file),
              .tokens = {},
              .label = {},
              .begin = {},
              .bytes = {},
              .origin = {}};
  const int64_t n = entry.documents;
  shard.tokens = elements<int32_t>(shard.file, "tokens", DType::i32, {entry.tokens});
  shard.begin = elements<int64_t>(shard.file, "begin", DType::i64, {n + 1});
  shard.bytes = elements<int64_t>(shard.file, "bytes", DType::i64, {n});
  shard.origin = elements<int64_t>(shard.file, "origin", DType::i64, {n, 2});
  shard.label = elements<int32_t>(shard.file, "label", DType::i32, {n});
  const bool ascending =
      std::adjacent_find(shard.begin.begin(), shard.begin.end(), std::greater_equal<>()) == shard.begin.end();
  if (!ascending || shard.begin.front() != 0 || shard.begin.back() != entry.tokens)
    refuse(shard.file.path(), "`begin` does not rise from 0 to the " + std::to_string(entry.tokens) + " tokens");
  int64_t bytes = 0;
  for (const int64_t b : shard.bytes)
    if (b < 0 || __builtin_add_overflow(bytes, b, &bytes)) refuse(shard.file.path(), "`bytes` holds a number below 0");
  if (bytes != entry.bytes)
    refuse(shard.file.path(),
           "`bytes` add up to " + std::to_string(bytes) + ", index.json says " + std::to_string(entry.bytes));
  return shard;
}

TokenShards TokenShards::open(const fs::path& folder) {
  TokenShards shards;
  shards.folder_ = folder;
  shards.index_ = std::make_unique<TokenIndex>(read_token_index(folder));
  for (const TokenSource& entry : shards.index_->sources) {
    Source source;
    source.entry_ = &entry;
    for (const ShardEntry& shard : entry.shards) {
      source.shards_.push_back(Source::open_shard(folder, shard));
      source.first_.push_back(source.first_.back() + shard.documents);
    }
    shards.sources_.push_back(std::move(source));
  }
  return shards;
}

const TokenShards::Source& TokenShards::source(const std::string& name) const {
  std::string names;
  for (const Source& source : sources_) {
    if (source.name() == name) return source;
    names += (names.empty() ? "" : ", ") + source.name();
  }
  fail(ErrorKind::invalid_input, folder_.string() + ": no source `" + name + "`; there are " + names);
}

void TokenShards::check() const {
  const int64_t inputs = int64_t(index_->inputs.size());
  for (const Source& source : sources_)
    for (size_t s = 0; s < source.shards_.size(); ++s) {
      const Source::Shard& shard = source.shards_[s];
      const fs::path& path = shard.file.path();
      const std::string digest = digest_of_file(path), &expected = source.entry_->shards[s].digest;
      if (digest != expected) refuse(path, "its digest is " + digest + ", index.json says " + expected);
      for (size_t i = 0; i + 1 < shard.begin.size(); ++i) {
        const size_t begin = size_t(shard.begin[i]), end = size_t(shard.begin[i + 1]);
        const std::string document = "document " + std::to_string(i);
        for (size_t t = begin; t < end; ++t)
          if (shard.tokens[t] < 0 || shard.tokens[t] >= index_->vocab_size)
            refuse(path, document + " holds the token " + std::to_string(shard.tokens[t]) + ", expected 0 to " +
                             std::to_string(index_->vocab_size - 1));
        if (end - begin < 2 || shard.tokens[begin] != index_->begin_of_sentence ||
            shard.tokens[end - 1] != index_->end_of_document)
          refuse(path, document + " does not begin and end with the tokens that frame documents");
        if (shard.origin[2 * i] < 0 || shard.origin[2 * i] >= inputs || shard.origin[2 * i + 1] < 0)
          refuse(path, document + " comes from an input that index.json does not list");
      }
    }
}

ShardEntry write_token_shard(const fs::path& folder, const std::string& source, int64_t number,
                             const ShardDocuments& d) {
  char end[32];
  std::snprintf(end, sizeof end, "-%05lld.safetensors", static_cast<long long>(number));
  const int64_t n = int64_t(d.bytes.size()), m = int64_t(d.tokens.size());
  ShardEntry entry{.file = source + end,
                   .documents = n,
                   .tokens = m,
                   .bytes = std::accumulate(d.bytes.begin(), d.bytes.end(), int64_t(0)),
                   .digest = {}};
  // The wide ones first, so that all lie on multiples of their elements' bytes.
  const TensorToWrite tensors[] = {{"begin", DType::i64, {n + 1}, [&](std::byte* out) { copy_to(out, d.begin); }},
                                   {"bytes", DType::i64, {n}, [&](std::byte* out) { copy_to(out, d.bytes); }},
                                   {"origin", DType::i64, {n, 2}, [&](std::byte* out) { copy_to(out, d.origin); }},
                                   {"label", DType::i32, {n}, [&](std::byte* out) { copy_to(out, d.label); }},
                                   {"tokens", DType::i32, {m}, [&](std::byte* out) { copy_to(out, d.tokens); }}};
  entry.digest = write_safetensors(folder / entry.file, tensors, {{"format", kTokenFormat}});
  return entry;
}

}  // namespace fulgur
