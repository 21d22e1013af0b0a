#include "bench/onednn_plugin.h"

#include <omp.h>

#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

namespace {

using dnnl::memory;

memory::desc matrix(int64_t rows, int64_t columns, bool transposed, bool is_bf16) {
  const auto type = is_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  return {{rows, columns}, type, transposed ? memory::dims{1, rows} : memory::dims{columns, 1}};
}

// With the library's own scratchpad one primitive on two threads returns garbage; the caller's has no such trap.
dnnl::primitive_attr attributes(bool adds) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (adds) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  return attr;
}

struct Product {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  memory a, b, c, scratchpad;
  dnnl::matmul primitive;

  explicit Product(const FulgurOnednnProduct& p) {
    const memory::desc da = matrix(p.m, p.k, p.a_transposed != 0, p.a_is_bf16 != 0),
                       db = matrix(p.k, p.n, p.b_transposed != 0, p.b_is_bf16 != 0),
                       dc = matrix(p.m, p.n, false, p.c_is_bf16 != 0);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc described(engine, da, db, dc, attributes(p.adds != 0));
#else
    const dnnl::matmul::primitive_desc described(dnnl::matmul::desc(da, db, dc), attributes(p.adds != 0), engine);
#endif
    primitive = dnnl::matmul(described);
    a = memory(da, engine, nullptr), b = memory(db, engine, nullptr), c = memory(dc, engine, nullptr);
    scratchpad = memory(described.scratchpad_desc(), engine);
  }
};

}  // namespace

void* fulgur_onednn_create(const FulgurOnednnProduct* product) {
  omp_set_num_threads(product->threads);
  try {
    return new Product(*product);
  } catch (const std::exception&) {  // no kernel for these types on this CPU
    return nullptr;
  }
}

void fulgur_onednn_run(void* product, const void* a, const void* b, void* c) {
  Product& p = *static_cast<Product*>(product);
  p.a.set_data_handle(const_cast<void*>(a)), p.b.set_data_handle(const_cast<void*>(b)), p.c.set_data_handle(c);
  p.primitive.execute(
      p.stream,
      {{DNNL_ARG_SRC, p.a}, {DNNL_ARG_WEIGHTS, p.b}, {DNNL_ARG_DST, p.c}, {DNNL_ARG_SCRATCHPAD, p.scratchpad}});
  p.stream.wait();
}

void fulgur_onednn_destroy(void* product) { delete static_cast<Product*>(product); }
