// Files and folders that appear whole or not at all: written under NAME.tmp beside the target, flushed to the disk,
// then renamed.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace fulgur {

enum class Replace : bool { no, yes };

// A file under construction. Without commit() nothing appears.
class AtomicFile {
 public:
  // Throws invalid_input where the target exists and may not be replaced, not_found where it cannot be created.
  explicit AtomicFile(const std::filesystem::path& target, Replace replace = Replace::yes);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

void write_file(const std::filesystem::path& target, std::string_view text, Replace replace = Replace::yes);

// A folder under construction: fill path(), then commit(). Leftovers of an interrupted attempt are removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& target, Replace replace = Replace::no);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  Replace replace_;
  bool committed_ = false;
};

// Removes a folder so that it is never seen in part: what is left of an interrupted removal has the name of a leftover.
void remove_folder(const std::filesystem::path& folder);

// What interrupted attempts to write `target`, a file or a folder, may have left beside it.
void remove_leftovers(const std::filesystem::path& target);

}  // namespace fulgur
