// Threads: the pool of one CPU stream. The caller works too, so a pool of one starts no thread.
#pragma once
#include <cstdint>

namespace fulgur {

class Threads {
 public:
  explicit Threads(int count);
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads();

  int count() const { return count_; }

  // body(i) once for every i in [0, items); returns when all are done. Which thread runs which i is left open, so body
  // may not let a result depend on it, and may not throw. Not to be nested.
  template <class Body>
  void for_each(int64_t items, const Body& body) {
    run(items, &body, [](const void* b, int64_t i) { (*static_cast<const Body*>(b))(i); });
  }

  // body(begin, end) over [0, items) in ranges of at most `grain`.
  template <class Body>
  void for_ranges(int64_t items, int64_t grain, const Body& body) {
    for_each((items + grain - 1) / grain, [&](int64_t piece) {
      const int64_t begin = piece * grain;
      body(begin, begin + grain < items ? begin + grain : items);
    });
  }

 private:
  using Call = void (*)(const void* body, int64_t item);
  void run(int64_t items, const void* body, Call call) noexcept;

  struct Pool;
  int count_;
  Pool* const pool_;
};

// Cores this process may use.
int available_cores();

}  // namespace fulgur
