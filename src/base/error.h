// Errors that a caller can act on are thrown as Error; a broken promise between our own functions ends the process.
#pragma once
#include <stdexcept>
#include <string>

namespace fulgur {

// What went wrong, coarse enough to map to an exit code.
enum class ErrorKind { invalid_input, unsupported, not_found, corrupt_file, out_of_memory, device };

inline constexpr int kExitBrokenPromise = 70;

constexpr int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_input:
    case ErrorKind::unsupported: return 2;
    case ErrorKind::not_found:
    case ErrorKind::corrupt_file: return 3;
    case ErrorKind::out_of_memory: return 4;
    case ErrorKind::device: return 5;
  }
  return kExitBrokenPromise;
}

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// A place in the source; std::source_location is missing from the Clang 14 tools.
struct Where {
  const char* file;
  int line;
  static constexpr Where caller(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// For whatever a user, a file or a machine can cause. `what`: one line, with the numbers and what was expected.
// Never called inside a parallel region.
[[noreturn]] void fail(ErrorKind kind, const std::string& what);

[[noreturn]] void broken(const char* promise, Where where);

// A promise that the code makes to itself; ends the process with exit code 70. Stays on in release builds: it guards
// tensors, not inner loops.
inline void expect(bool holds, const char* promise, Where where = Where::caller()) {
  if (!holds) [[unlikely]]
    broken(promise, where);
}

}  // namespace fulgur
