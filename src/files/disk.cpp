#include "files/disk.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

#include "base/error.h"

namespace fulgur::disk {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& path, const char* what, int cause) {
  fail(ErrorKind::not_found, path.string() + ": cannot be " + what + ": " + std::strerror(cause));
}

struct Fault {
  long call = 0;  // 0: none
  int cause = 0;  // errno; 0: SIGKILL
};

Fault read_fault() {
  const char* text = std::getenv("FULGUR_FAULT");
  if (!text) return {};
  Fault fault;
  char* end = nullptr;
  fault.call = std::strtol(text, &end, 10);
  const std::string_view effect(*end == ':' ? end + 1 : "");
  if (effect == "EIO") fault.cause = EIO;
  else if (effect == "ENOSPC") fault.cause = ENOSPC;
  else if (effect == "EROFS") fault.cause = EROFS;
  if (fault.call < 1 || (fault.cause == 0 && effect != "kill"))
    fail(ErrorKind::invalid_input, std::string("FULGUR_FAULT = ") + text + ": expected N:kill, EIO, ENOSPC or EROFS");
  return fault;
}

// Counts a call; the errno that it has to fail with, or 0. `half_way` does half of a call that can be cut in two.
template <class HalfWay>
int spoiled(const HalfWay& half_way) {
  static const Fault fault = read_fault();
  static std::atomic<long> calls{0};
  if (++calls != fault.call) return 0;
  half_way();
  if (fault.cause == 0) raise(SIGKILL);
  return fault.cause;
}

int spoiled() {
  return spoiled([] {});
}

void write_all(int descriptor, std::span<const std::byte> bytes, const fs::path& file) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse(file, "written", errno);
    bytes = bytes.subspan(size_t(written));
  }
}

// errno, or 0; a file system without fsync answers EINVAL.
int flush_descriptor(int descriptor) {
  if (const int cause = spoiled()) return cause;
  return fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
}

}  // namespace

int create(const fs::path& file) {
  if (const int cause = spoiled()) refuse(file, "created", cause);
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) refuse(file, "created", errno);
  return descriptor;
}

void write(int descriptor, std::span<const std::byte> bytes, const fs::path& file) {
  if (const int cause = spoiled([&] { write_all(descriptor, bytes.first(bytes.size() / 2), file); }))
    refuse(file, "written", cause);
  write_all(descriptor, bytes, file);
}

void flush(int descriptor, const fs::path& path) {
  if (const int cause = flush_descriptor(descriptor)) refuse(path, "flushed", cause);
}

void flush(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) refuse(path, "flushed", errno);
  const int cause = flush_descriptor(descriptor);
  close(descriptor);
  if (cause) refuse(path, "flushed", cause);
}

void rename(const fs::path& from, const fs::path& to) {
  if (const int cause = spoiled()) refuse(to, "put in place", cause);
  if (std::rename(from.c_str(), to.c_str()) != 0) refuse(to, "put in place", errno);
}

bool exchange(const fs::path& a, const fs::path& b) {
  if (const int cause = spoiled()) refuse(b, "put in place", cause);
  return renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

void make_folder(const fs::path& folder) {
  if (const int cause = spoiled()) refuse(folder, "created", cause);
  std::error_code error;
  fs::create_directory(folder, error);
  if (error) refuse(folder, "created", error.value());
}

void remove(const fs::path& path) {
  std::error_code error;
  const auto remove_one_entry = [&] {
    for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) return void(fs::remove(entry, error));
  };
  if (const int cause = spoiled(remove_one_entry)) refuse(path, "removed", cause);
  fs::remove_all(path, error);
  if (error) refuse(path, "removed", error.value());
}

}  // namespace fulgur::disk
