// MappedFile: a file's bytes, read-only, mapped into memory as long as the object lives.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>

namespace fulgur {

class MappedFile {
 public:
  // Throws not_found where there is no readable regular file, corrupt_file where it cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // The pages of this range will not be read again soon.
  void forget(std::span<const std::byte> range) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fulgur
