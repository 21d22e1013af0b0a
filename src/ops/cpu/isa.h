// The instruction set of the CPU twins: picked once at start from what the CPU has, or by
// FULGUR_ISA=neon|avx2|avx512|amx.
#pragma once

namespace fulgur::cpu {

enum class Isa { generic, neon, avx2, avx512, amx };  // neon: of aarch64; amx: AVX-512 with bf16 matrix tiles

// Throws unsupported (exit 2) for a FULGUR_ISA that is unknown or that this CPU lacks, naming the allowed values.
// fulgur calls it at start, so that later calls cannot throw.
Isa isa();
bool has(Isa isa);       // what this CPU can run, whatever was picked
bool has_avx512_bf16();  // AVX-512's products of pairs of bf16, which some CPUs with avx512 lack
const char* name_of(Isa isa);

// Whether the picked instruction set multiplies bf16, and what decides the bits of bf16 products: amx, avx512_bf16, or
// widened, which is one path on all that multiply f32.
bool multiplies_bf16();
const char* bf16_path();

}  // namespace fulgur::cpu
