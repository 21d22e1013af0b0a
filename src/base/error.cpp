#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace fulgur {

void fail(ErrorKind kind, const std::string& what) { throw Error(kind, what); }

void broken(const char* promise, Where where) {
  std::fprintf(stderr, "%s:%d: broken promise: %s; please report\n", where.file, where.line, promise);
  std::_Exit(kExitBrokenPromise);
}

}  // namespace fulgur
