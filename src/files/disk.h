// Disk: the calls that change what lies on the disk. Whatever a save does goes through them, so that tests can break it
// at every one. All throw not_found with the path, what could not be done and why.
//
// For tests alone, the environment variable FULGUR_FAULT=N:EFFECT spoils the N-th of these calls, counted from 1 over
// the whole process. EFFECT is kill (SIGKILL right before the call), EIO, ENOSPC or EROFS (the call fails with it). A
// spoiled write has written half of its bytes, a spoiled removal has removed one file of the folder.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>

namespace fulgur::disk {

// A new, empty file, open for writing: its descriptor.
int create(const std::filesystem::path& file);
// All bytes, to a descriptor of `file`.
void write(int descriptor, std::span<const std::byte> bytes, const std::filesystem::path& file);
// Returns when the file's bytes, or the folder's entries, are on the disk.
void flush(int descriptor, const std::filesystem::path& path);
void flush(const std::filesystem::path& path);
// One step: `to` is replaced where it is a file or an empty folder.
void rename(const std::filesystem::path& from, const std::filesystem::path& to);
// The two change places in one step; false where the file system cannot.
bool exchange(const std::filesystem::path& a, const std::filesystem::path& b);
// In an existing folder; nothing where it exists.
void make_folder(const std::filesystem::path& folder);
// A file, or a folder with all it holds; nothing where it does not exist.
void remove(const std::filesystem::path& path);

}  // namespace fulgur::disk
