// Work units: what `data prepare` keeps between its stages, one file per stage and unit of input. A file carries the
// key of all that decided its bytes; it is made anew where the key is another. So an interrupted preparation goes on
// where it was, and a changed configuration redoes what it touches.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/threads.h"
#include "data/language.h"
#include "files/safetensors.h"

namespace fulgur {

class WorkFolder {
 public:
  // Makes the folder where it does not exist.
  explicit WorkFolder(std::filesystem::path folder);

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path stage(const std::string& stage) const;  // a folder, made where it does not exist
  std::filesystem::path file(const std::string& stage, int64_t unit) const;
  // Whether the file is there, made under this key.
  static bool has(const std::filesystem::path& file, const std::string& key);

 private:
  std::filesystem::path folder_;
};

// The whole tensor where it lies. Throws corrupt_file where it has another type or no whole number of elements.
template <class T>
std::span<const T> elements_of(const Safetensors& file, const char* name);

// A tensor from a vector that outlives the writing.
template <class T>
TensorToWrite tensor_of(const char* name, const std::vector<T>& elements, int64_t columns = 1);

// Documents that passed the first stage.
struct CleanedDocuments {
  std::string text;
  std::vector<int64_t> begin{0};  // document i is text [begin[i], begin[i + 1])
  std::vector<int64_t> origin;    // two each: input, number in it
  std::vector<uint64_t> hash;     // two each: 128 bits of the text, white space apart
  std::vector<uint8_t> language;  // Language

  void write(const std::filesystem::path& file, const std::string& key, const std::string& report) const;
};

// The same, mapped.
class CleanedUnit {
 public:
  explicit CleanedUnit(const std::filesystem::path& file);

  int64_t documents() const { return int64_t(begin_.size()) - 1; }
  std::string_view text(int64_t i) const { return text_.substr(size_t(begin_[size_t(i)]), size_t(bytes(i))); }
  int64_t total_bytes() const { return int64_t(text_.size()); }
  int64_t bytes(int64_t i) const { return begin_[size_t(i) + 1] - begin_[size_t(i)]; }
  int64_t input(int64_t i) const { return origin_[size_t(2 * i)]; }
  int64_t number(int64_t i) const { return origin_[size_t(2 * i) + 1]; }
  std::array<uint64_t, 2> hash(int64_t i) const { return {hash_[size_t(2 * i)], hash_[size_t(2 * i) + 1]}; }
  Language language(int64_t i) const { return Language(language_[size_t(i)]); }
  const Metadata& metadata() const { return file_.metadata(); }

 private:
  Safetensors file_;
  std::string_view text_;
  std::span<const int64_t> begin_, origin_;
  std::span<const uint64_t> hash_;
  std::span<const uint8_t> language_;
};

// Keeps errors of many threads: of those that began, the one of the lowest number is thrown at the end.
class FirstError {
 public:
  // body(), unless something with a lower number has failed. Throws nothing.
  template <class Body>
  void guard(int64_t number, const Body& body) {
    if (failed_.load() <= number) return;
    try {
      body();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (number < failed_.load()) failed_ = number, error_ = std::current_exception();
    }
  }
  bool any() const { return failed_.load() != INT64_MAX; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::atomic<int64_t> failed_{INT64_MAX};
  std::exception_ptr error_;
};

// body(i) for all i, which may throw.
template <class Body>
void for_each_guarded(Threads& threads, int64_t items, const Body& body) {
  FirstError errors;
  threads.for_each(items, [&](int64_t i) { errors.guard(i, [&] { body(i); }); });
  errors.rethrow();
}

// Progress and time of one stage, told by any thread.
class StageClock {
 public:
  StageClock(const std::string& name, int64_t total_bytes);
  // Counts `bytes` as done; `worked`: by this run.
  void done(int64_t bytes, bool worked);
  // To an absolute count.
  void reach(int64_t bytes);
  void finish();
  double seconds() const { return seconds_; }
  double mb_per_s() const { return seconds_ > 0 ? double(worked_) / 1e6 / seconds_ : 0; }

 private:
  void show();

  std::mutex mutex_;
  Progress progress_;
  int64_t total_, done_ = 0, worked_ = 0;
  double seconds_ = 0;
};

}  // namespace fulgur
