// FolderLock: one process at a time works in a folder. Held by the object, given up when the process ends in any way.
#pragma once
#include <filesystem>

namespace fulgur {

class FolderLock {
 public:
  // Throws invalid_input when another process holds it, not_found where there is no such folder. A file system without
  // locks is taken as it is.
  explicit FolderLock(const std::filesystem::path& folder);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

 private:
  int descriptor_;
};

}  // namespace fulgur
