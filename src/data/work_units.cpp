#include "data/work_units.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "files/disk.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMegabyte = 1'000'000;

template <class T>
constexpr DType kTypeOf = sizeof(T) == 1   ? DType::u8
                          : sizeof(T) == 4 ? DType::i32
                                           : DType::i64;
template <>
constexpr DType kTypeOf<double> = DType::f64;

}  // namespace

WorkFolder::WorkFolder(fs::path folder) : folder_(std::move(folder)) { disk::make_folder(folder_); }

fs::path WorkFolder::stage(const std::string& stage) const {
  disk::make_folder(folder_ / stage);
  return folder_ / stage;
}

fs::path WorkFolder::file(const std::string& stage, int64_t unit) const {
  char name[40];
  std::snprintf(name, sizeof name, "%07lld.safetensors", static_cast<long long>(unit));
  return folder_ / stage / name;
}

bool WorkFolder::has(const fs::path& file, const std::string& key) {
  if (std::error_code ignored; !fs::exists(file, ignored)) return false;
  const Safetensors opened = Safetensors::open(file);
  const auto found = opened.metadata().find("key");
  return found != opened.metadata().end() && found->second == key;
}

template <class T>
std::span<const T> elements_of(const Safetensors& file, const char* name) {
  const StoredTensor& tensor = file.at(name);
  if (tensor.dtype != kTypeOf<T> || reinterpret_cast<uintptr_t>(tensor.bytes.data()) % sizeof(T) != 0)
    fail(ErrorKind::corrupt_file, file.path().string() + ": tensor " + name + " is " + tensor.describe() +
                                      ", which no preparation has written; remove the folder it lies in");
  return {reinterpret_cast<const T*>(tensor.bytes.data()), tensor.bytes.size() / sizeof(T)};
}
template std::span<const uint8_t> elements_of(const Safetensors&, const char*);
template std::span<const int32_t> elements_of(const Safetensors&, const char*);
template std::span<const uint32_t> elements_of(const Safetensors&, const char*);
template std::span<const int64_t> elements_of(const Safetensors&, const char*);
template std::span<const uint64_t> elements_of(const Safetensors&, const char*);
template std::span<const double> elements_of(const Safetensors&, const char*);

template <class T>
TensorToWrite tensor_of(const char* name, const std::vector<T>& elements, int64_t columns) {
  std::vector<int64_t> shape{int64_t(elements.size()) / columns};
  if (columns > 1) shape.push_back(columns);
  return {name, kTypeOf<T>, std::move(shape), [&elements](std::byte* out) {
            if (!elements.empty()) std::memcpy(out, elements.data(), elements.size() * sizeof(T));
          }};
}
template TensorToWrite tensor_of(const char*, const std::vector<uint8_t>&, int64_t);
template TensorToWrite tensor_of(const char*, const std::vector<int32_t>&, int64_t);
template TensorToWrite tensor_of(const char*, const std::vector<uint32_t>&, int64_t);
template TensorToWrite tensor_of(const char*, const std::vector<int64_t>&, int64_t);
template TensorToWrite tensor_of(const char*, const std::vector<uint64_t>&, int64_t);
template TensorToWrite tensor_of(const char*, const std::vector<double>&, int64_t);

void CleanedDocuments::write(const fs::path& file, const std::string& key, const std::string& report) const {
  const TensorToWrite tensors[] = {
      tensor_of("begin", begin),
      tensor_of("origin", origin, 2),
      tensor_of("hash", hash, 2),
      tensor_of("language", language),
      {"text", DType::u8, {int64_t(text.size())}, [&](std::byte* out) { std::memcpy(out, text.data(), text.size()); }}};
  write_safetensors(file, tensors, {{"key", key}, {"report", report}});
}

CleanedUnit::CleanedUnit(const fs::path& file)
    : file_(Safetensors::open(file)),
      begin_(elements_of<int64_t>(file_, "begin")),
      origin_(elements_of<int64_t>(file_, "origin")),
      hash_(elements_of<uint64_t>(file_, "hash")),
      language_(elements_of<uint8_t>(file_, "language")) {
  const std::span<const uint8_t> text = elements_of<uint8_t>(file_, "text");
  text_ = {reinterpret_cast<const char*>(text.data()), text.size()};
  const size_t n = language_.size();
  if (begin_.size() != n + 1 || origin_.size() != 2 * n || hash_.size() != 2 * n || begin_.front() != 0 ||
      begin_.back() != int64_t(text.size()) || !std::is_sorted(begin_.begin(), begin_.end()))
    fail(ErrorKind::corrupt_file, file.string() + ": its tensors do not fit each other; remove the folder it lies in");
}

StageClock::StageClock(const std::string& name, int64_t total_bytes)
    : progress_(name, std::max<int64_t>(1, total_bytes / kMegabyte), "MB"),
      total_(std::max<int64_t>(1, total_bytes / kMegabyte)) {}

void StageClock::done(int64_t bytes, bool worked) {
  const std::lock_guard lock(mutex_);
  done_ += bytes, worked_ += worked ? bytes : 0;
  show();
}

void StageClock::reach(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  worked_ += bytes - done_, done_ = bytes;
  show();
}

void StageClock::show() { progress_.update(std::min(done_ / kMegabyte, total_ - 1), worked_ / kMegabyte); }

void StageClock::finish() {
  seconds_ = progress_.seconds();
  progress_.update(total_, worked_ / kMegabyte);
}

}  // namespace fulgur
