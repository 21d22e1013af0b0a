// An operator is a struct of operands (its contract) and two twins that honour it, cpu:: and cuda::.
#pragma once
#include "device/stream.h"
#include "ops/operands.h"

#define FULGUR_DECLARE_OPERATOR(name, Operands)  \
  void name(Stream& stream, const Operands& op); \
  namespace cpu {                                \
  void name(Stream& stream, const Operands& op); \
  }                                              \
  namespace cuda {                               \
  void name(Stream& stream, const Operands& op); \
  }

// FULGUR_CUDA is defined for ops/dispatch.cpp alone, so that all other files compile alike in every build.
#ifdef FULGUR_CUDA
#define FULGUR_CUDA_TWIN(name)        \
  if (stream.device().is_cuda()) {    \
    const ProfilerRange range(#name); \
    return cuda::name(stream, op);    \
  }
#else
#define FULGUR_CUDA_TWIN(name)
#endif

// The only backend switch in the engine: check the contract, then run the twin. A recorder runs it once more inside its
// own brackets (ops/recorded.h).
#define FULGUR_DEFINE_OPERATOR(name, Operands)                                                                      \
  void name(Stream& stream, const Operands& op) {                                                                   \
    op.check();                                                                                                     \
    for_each_operand(                                                                                               \
        op, [&](Operand o) { expect(o.tensor->device == stream.device(), #name " runs where its operands are"); }); \
    if (stream.recorder()) [[unlikely]]                                                                             \
      return recorded(stream, #name, op, name);                                                                     \
    if (stream.measuring()) return stream.count(bytes_of(op));                                                      \
    FULGUR_CUDA_TWIN(name)                                                                                          \
    cpu::name(stream, op);                                                                                          \
  }
