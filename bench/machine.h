// What the machine's memory gives: the rates that floors divide bytes by, measured in the run that uses them.
#pragma once
#include <cstdint>

#include "base/tensor.h"
#include "base/threads.h"

namespace fulgur::bench {

struct MemoryRates {
  double copy = 0;  // bytes per second of a copy, by memcpy or past the caches; read and written bytes counted
  double read = 0;  // bytes per second, a number of every line: in order or from many places at once
};

// Bytes of the largest cache; what a buffer has to exceed so that its bytes come from memory.
int64_t cache_bytes();

// Best of several passes of all threads, in turn over the parts of buffers larger than the caches. `seconds`: how long
// each of the two takes at least; bytes: of each buffer. Throws out_of_memory.
MemoryRates measured_memory_rates(Threads& threads, double seconds, int64_t bytes = 2 * cache_bytes());

// Of a GPU's memory: copies of buffers larger than its caches; what they read and write is both rates. Throws as above.
MemoryRates measured_memory_rates(DeviceId gpu, double seconds);

}  // namespace fulgur::bench
