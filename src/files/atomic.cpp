#include "files/atomic.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

// The target without a trailing separator, so that NAME.tmp lies beside it.
fs::path beside(const fs::path& target) { return target.has_filename() ? target : target.parent_path(); }

fs::path with_tmp(const fs::path& target) { return target.string() + ".tmp"; }

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

[[noreturn]] void refuse(const fs::path& path, const char* what, int cause) {
  fail(ErrorKind::not_found, path.string() + ": " + what + ": " + std::strerror(cause));
}

void require_free(const fs::path& target, Replace replace) {
  std::error_code ignored;
  if (replace == Replace::no && fs::symlink_status(target, ignored).type() != fs::file_type::not_found)
    fail(ErrorKind::invalid_input, target.string() + ": exists already; give another name or remove it");
}

void flush(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) refuse(path, "cannot be flushed", errno);
  const int result = fsync(descriptor);
  const int cause = errno;
  close(descriptor);
  if (result != 0 && cause != EINVAL) refuse(path, "cannot be flushed", cause);  // EINVAL: a file system without fsync
}

void rename_to(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) refuse(to, "cannot be put in place", errno);
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& target, Replace replace) : target_(target), temporary_(with_tmp(target)) {
  require_free(target_, replace);
  descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) refuse(temporary_, "cannot be created", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse(temporary_, "cannot be written", errno);
    bytes = bytes.subspan(size_t(written));
  }
}

void AtomicFile::commit() {
  if (fsync(descriptor_) != 0 && errno != EINVAL) refuse(temporary_, "cannot be flushed", errno);
  if (close(std::exchange(descriptor_, -1)) != 0) refuse(temporary_, "cannot be written", errno);
  rename_to(temporary_, target_);
  flush(folder_of(target_));
}

void write_file(const fs::path& target, std::string_view text, Replace replace) {
  AtomicFile file(target, replace);
  file.write(text);
  file.commit();
}

AtomicFolder::AtomicFolder(const fs::path& target, Replace replace)
    : target_(beside(target)), temporary_(with_tmp(target_)), replace_(replace) {
  require_free(target_, replace);
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (!error) fs::create_directory(temporary_, error);
  if (error) refuse(temporary_, "cannot be created", error.value());
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(temporary_))
    if (!entry.is_symlink()) flush(entry.path());
  flush(temporary_);
  require_free(target_, replace_);
  std::error_code ignored;
  if (replace_ == Replace::yes && fs::exists(target_, ignored)) {
    // The two change places in one step where the file system can; else the old one steps aside first.
    const fs::path old = target_.string() + ".old";
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
      fs::remove_all(temporary_, ignored);
    } else {
      fs::remove_all(old, ignored);
      rename_to(target_, old);
      rename_to(temporary_, target_);
      fs::remove_all(old, ignored);
    }
  } else {
    rename_to(temporary_, target_);
  }
  committed_ = true;
  flush(folder_of(target_));
}

}  // namespace fulgur
