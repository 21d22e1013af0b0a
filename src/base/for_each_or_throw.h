// for_each_or_throw: work on a pool's threads that may fail, as what allocates may.
#pragma once
#include <exception>
#include <mutex>

#include "base/threads.h"

namespace fulgur {

// body(i) once for every i in [0, items), as Threads::for_each; what a body threw first is thrown again when all are
// done.
template <class Body>
void for_each_or_throw(Threads& threads, int64_t items, const Body& body) {
  std::mutex mutex;
  std::exception_ptr thrown;
  threads.for_each(items, [&](int64_t i) {
    try {
      body(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!thrown) thrown = std::current_exception();
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace fulgur
