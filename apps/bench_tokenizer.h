// The part of `fulgur bench` that times a tokenizer.
#pragma once
#include <CLI/CLI.hpp>

namespace fulgur {

void add_bench_tokenizer(CLI::App& bench);

}  // namespace fulgur
