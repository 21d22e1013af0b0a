// The subcommands of fulgur: each registers itself, with a callback that does the work and throws fulgur::Error.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace fulgur {

void add_inspect(CLI::App& app);
void add_convert(CLI::App& app);
void add_quantize(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_tokenizer(CLI::App& app);
void add_data(CLI::App& app);
void add_render(CLI::App& app);
void add_logits(CLI::App& app);
void add_gradients(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_eval(CLI::App& app);
void add_train(CLI::App& app);
void add_plot(CLI::App& app);
void add_runs(CLI::App& app);
void add_signature(CLI::App& app);
void add_bench(CLI::App& app);
void add_doctor(CLI::App& app);

// What `fulgur signature` prints, line by line: the CPU's, then the device's where that is a GPU.
std::vector<std::string> signature_lines(int threads, DeviceId device = {});

}  // namespace fulgur
