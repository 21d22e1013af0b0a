// The products of linear and expert_linear as Hopper's kernels compute them, with the bits of ops/cuda/products.cuh.
#pragma once
#include "ops/cuda/factors.cuh"

namespace fulgur::cuda {

// False, and nothing is done, on another GPU and where the copy engine cannot take an operand: all begin at multiples
// of 16 bytes, and so do their rows. b's rows lie along k, and those of groups are rows of c; rows of c that belong to
// no group become zero.
bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y);
bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, float>& y);

// Whether there are so few rows that reading the weights takes the time.
bool has_few_rows(const Factors<bf16, bf16, bf16>& y);
// y of few rows with quantised weights in b's place, which has no data. False too where rows are many.
bool multiply_few_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                            const QuantisedWeights& w);

// y = SiLU(a b) * (a up_weights), whose factors are rounded first and left in gate and up, laid out as y; null:
// nowhere.
struct Gated {
  Strided<const bf16> up_weights;  // strides and groups of b
  bf16 *gate, *up;
};
bool multiply_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y, const Gated& gated);
// The same of few rows, each of them row numbers[i] of the `count` rows of a. False too where rows are many.
struct Gather {
  const int32_t* numbers;
  int64_t count;
};
bool multiply_few_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                                  const Gated& gated, const Gather& gather);
// The same with quantised weights in the places of b and up_weights, which have no data.
bool multiply_few_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                                  const Gated& gated, const Gather& gather, const QuantisedWeights& w,
                                  const QuantisedWeights& w_up);

// dx = dy w and dw += dy^T x of one dy, in one launch: a.row of dx and a.column of dw are its rows' stride.
bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                        const Factors<bf16, bf16, float>& dw);
// The same of dy in f32, which is rounded first.
bool multiply_on_hopper(Stream& stream, const char* name, const Factors<float, bf16, bf16>& dx,
                        const Factors<float, bf16, float>& dw);
// The same of x = SiLU(gate) * up: the gradients of gate, in dx.c, and of up, by the rounded dx.
struct GateFactors {
  const bf16 *gate, *up;
  int64_t row;  // elements between rows of either
  bf16* dup;    // laid out as dx.c
};
bool multiply_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                              const Factors<bf16, bf16, float>& dw, const GateFactors& x);
// As linear_backward's where outputs, k of dx, are so few that reading x and dx takes the time; false where they are
// not. Of what multiply_on_hopper can take.
bool multiply_few_outputs(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                          const Factors<bf16, bf16, float>& dw);

}  // namespace fulgur::cuda
