#include "files/mmap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fulgur {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail(ErrorKind::not_found, path.string() + ": cannot be read: " + std::strerror(errno));
  struct stat status {};
  const bool known = fstat(descriptor, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    close(descriptor);
    fail(ErrorKind::not_found, path.string() + ": not a regular file");
  }
  size_ = size_t(status.st_size);
  void* memory = size_ ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0) : nullptr;
  const int cause = errno;
  close(descriptor);
  if (memory == MAP_FAILED)
    fail(ErrorKind::corrupt_file,
         path.string() + ": its " + std::to_string(size_) + " bytes cannot be mapped: " + std::strerror(cause));
  data_ = static_cast<const std::byte*>(memory);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_), std::swap(data_, other.data_), std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::forget(std::span<const std::byte> range) const {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t begin = (size_t(range.data() - data_) + page - 1) / page * page;
  const size_t end = size_t(range.data() - data_ + std::ptrdiff_t(range.size())) / page * page;
  if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace fulgur
