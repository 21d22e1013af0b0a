// The one binary: dispatches to a subcommand and turns errors into exit codes and one line on standard error.
#include <cstdio>
#include <exception>
#include <new>

#include "apps/commands.h"
#include "base/error.h"
#include "ops/cpu/isa.h"

namespace fulgur {
namespace {

constexpr int kExitInvalid = 2, kExitOutOfMemory = 4;

void print_error(std::string line) {
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  std::fprintf(stderr, "fulgur: %s\n", line.c_str());
}

// CLI11 would only say that a subcommand is missing.
void require_known(const CLI::App& app, const std::string& command) {
  if (command.starts_with('-')) return;
  std::string names;
  for (const CLI::App* known : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (known->get_name() == command) return;
    names += (names.empty() ? "" : ", ") + known->get_name();
  }
  fail(ErrorKind::invalid_input, "unknown command `" + command + "`: expected one of " + names);
}

int run(int argc, char** argv) {
  CLI::App app{"Trains, evaluates and runs MiniMax-01-class models.", "fulgur"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "fulgur " FULGUR_VERSION);
  add_inspect(app), add_convert(app), add_quantize(app);
  add_tokenize(app), add_detokenize(app), add_tokenizer(app), add_render(app), add_data(app);
  add_logits(app), add_gradients(app), add_generate(app), add_chat(app);
  add_eval(app), add_train(app), add_plot(app), add_runs(app), add_signature(app), add_bench(app), add_doctor(app);
  try {
    cpu::isa();  // refuses a bad FULGUR_ISA before any work
    if (argc > 1) require_known(app, argv[1]);
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    print_error(std::string(error.what()) + " (see fulgur --help)");
    return kExitInvalid;
  } catch (const Error& error) {
    print_error(error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
    return kExitOutOfMemory;
  } catch (const std::exception& error) {
    print_error(std::string("unexpected: ") + error.what() + "; please report");
    return kExitBrokenPromise;
  }
}

}  // namespace
}  // namespace fulgur

int main(int argc, char** argv) { return fulgur::run(argc, argv); }
