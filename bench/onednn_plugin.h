// What the plug-in libfulgur_onednn.so exports: oneDNN's product beside ours, in bench alone. It is built where
// libdnnl-dev is installed and found beside the program at run time.
#pragma once
#include <cstdint>

extern "C" {

struct FulgurOnednnProduct {
  int64_t m, n, k;
  int a_transposed, b_transposed;             // a is [m, k] or [k, m], b is [k, n] or [n, k]
  int a_is_bf16, b_is_bf16, c_is_bf16, adds;  // else f32
  int threads;
};

// Null: the library has no such product on this CPU.
void* fulgur_onednn_create(const FulgurOnednnProduct* product);
void fulgur_onednn_run(void* product, const void* a, const void* b, void* c);
void fulgur_onednn_destroy(void* product);
}
