#include "files/atomic.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"
#include "files/disk.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

// The target without a trailing separator, so that NAME.tmp lies beside it.
fs::path beside(const fs::path& target) { return target.has_filename() ? target : target.parent_path(); }

fs::path with(const char* end, const fs::path& target) { return target.string() + end; }

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

void require_free(const fs::path& target, Replace replace) {
  std::error_code ignored;
  if (replace == Replace::no && fs::symlink_status(target, ignored).type() != fs::file_type::not_found)
    fail(ErrorKind::invalid_input, target.string() + ": exists already; give another name or remove it");
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& target, Replace replace) : target_(target), temporary_(with(".tmp", target)) {
  require_free(target_, replace);
  descriptor_ = disk::create(temporary_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!committed_) unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) { disk::write(descriptor_, bytes, temporary_); }

void AtomicFile::commit() {
  disk::flush(descriptor_, temporary_);
  if (close(std::exchange(descriptor_, -1)) != 0)
    fail(ErrorKind::not_found, temporary_.string() + ": cannot be written: " + std::strerror(errno));
  disk::rename(temporary_, target_);
  committed_ = true;
  disk::flush(folder_of(target_));
}

void write_file(const fs::path& target, std::string_view text, Replace replace) {
  AtomicFile file(target, replace);
  file.write(text);
  file.commit();
}

AtomicFolder::AtomicFolder(const fs::path& target, Replace replace)
    : target_(beside(target)), temporary_(with(".tmp", target_)), replace_(replace) {
  require_free(target_, replace);
  disk::remove(temporary_);
  disk::make_folder(temporary_);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(temporary_))
    if (!entry.is_symlink()) disk::flush(entry.path());
  disk::flush(temporary_);
  require_free(target_, replace_);
  std::error_code ignored;
  const bool replaces = replace_ == Replace::yes && fs::exists(target_, ignored);
  const fs::path old = with(".old", target_);
  if (!replaces) {
    disk::rename(temporary_, target_);
  } else if (!disk::exchange(temporary_, target_)) {  // then the old one steps aside first
    disk::remove(old);
    disk::rename(target_, old);
    disk::rename(temporary_, target_);
  }
  committed_ = true;
  disk::flush(folder_of(target_));
  if (replaces) disk::remove(temporary_), disk::remove(old);
}

void remove_folder(const fs::path& folder) {
  const fs::path doomed = with(".tmp", folder);
  disk::remove(doomed);
  disk::rename(folder, doomed);
  disk::flush(folder_of(folder));
  disk::remove(doomed);
}

void remove_leftovers(const fs::path& target) {
  for (const char* end : {".tmp", ".old"})
    if (std::error_code ignored; fs::exists(fs::symlink_status(with(end, target), ignored)))
      disk::remove(with(end, target));
}

}  // namespace fulgur
