// fulgur signature: a fixed tiny model with seeded weights takes training steps and generates tokens; one hash of
// losses, tokens and weights says whether any number changed. In f32 equal on every instruction set; a second line has
// bf16, whose products differ between them.
#include <cstdio>
#include <cstring>

#include "apps/commands.h"
#include "base/random.h"
#include "device/devices.h"
#include "device/transfer.h"
#include "files/digest.h"
#include "generate/engine.h"
#include "model/checkpoint.h"
#include "model/initialise.h"
#include "ops/cpu/isa.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur {
namespace {

constexpr int64_t kSteps = 4, kGenerated = 96, kPrompt = 150;

ModelConfig signature_config() {
  ModelConfig c;
  c.vocab_size = 211, c.width = 48, c.layers = 4, c.heads = 4, c.kv_heads = 2, c.head_dim = 16, c.rotary_dim = 8;
  c.experts = 6, c.experts_per_token = 2, c.expert_width = 40, c.rope_theta = 1e4, c.max_positions = 4096;
  c.lightning_residual = c.softmax_residual = c.moe_residual = {1.6818, 1.0};
  c.post_norm = true;
  c.attention = {AttentionKind::lightning, AttentionKind::lightning, AttentionKind::lightning, AttentionKind::softmax};
  require_valid(c);
  return c;
}

RunConfig signature_run(DType type, DeviceId device) {
  RunConfig run;
  run.device = device, run.deterministic = true;
  run.dtype = type;
  run.steps = kSteps, run.sequence = 192, run.tokens_per_step = 4 * 192, run.micro_rows = 2, run.lanes = 2;
  run.lr = 3e-3, run.schedule = Schedule::constant;
  return run;
}

// Documents of a noisy repeating pattern, so that losses fall.
TokenizedDocuments documents(int64_t vocab) {
  TokenizedDocuments all;
  for (uint64_t d = 0; d < 24; ++d) {
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < 20 + 17 * d; ++i) {
      const PhiloxBlock draw = philox(1, i, d);
      tokens.push_back(int32_t(draw[0] % 4 == 0 ? draw[1] % uint64_t(vocab) : (i * 7 + d) % uint64_t(vocab)));
    }
    all.add(tokens);
  }
  return all;
}

void add_bytes(std::string& to, const void* from, size_t size) { to.append(static_cast<const char*>(from), size); }

std::string trained(const ModelConfig& config, const RunConfig& run, TrainingMemory& memory, Stream& stream) {
  Arena scratch = memory.scratch(), tape = memory.tape();
  Exec exec{stream, scratch, tape, config};
  PackedRows rows(documents(config.vocab_size), run.sequence, 5);
  std::string numbers;
  for (int64_t step = 0; step < kSteps; ++step) {
    const StepReport report = train_rows(exec, memory.state, run, rows);
    const float seen[] = {float(report.loss), float(report.router.balance_loss), float(report.gradient_norm)};
    add_bytes(numbers, seen, sizeof seen);
  }
  for_bytes(stream, memory.state.master,
            [&](std::span<const std::byte> bytes) { add_bytes(numbers, bytes.data(), bytes.size()); });
  return numbers;
}

std::string generated(const ModelConfig& config, const ModelWeights& weights, int threads) {
  Engine engine(
      config, weights,
      {.sequences = 1, .tokens = kPrompt + kGenerated, .threads = threads, .limits = {.rows = 64, .chunk = 50}});
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < kPrompt; ++i) prompt.push_back(int32_t(i * 7 % config.vocab_size));
  Sequence sequence = engine.begin(prompt);
  sequence.new_tokens = kGenerated, sequence.sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 3};
  Sequence* const running[] = {&sequence};
  while (sequence.new_tokens > 0) engine.step(running);
  std::string numbers;
  add_bytes(numbers, sequence.tokens.data(), sequence.tokens.size() * sizeof(int32_t));
  return numbers;
}

std::string signature(DType type, int threads, DeviceId device) {
  const ModelConfig config = signature_config();
  const RunConfig run = signature_run(type, device);
  Stream stream(device, threads);
  TrainingMemory memory(config, run, 0);
  ModelWeights master = views_of(config, memory.state.master);
  initialise(config, master, 1, stream.threads());
  round_master(stream, memory.state);
  std::string numbers = trained(config, run, memory, stream);
  numbers += generated(config, memory.state.weights, threads);
  return digest_of(numbers);
}

}  // namespace

std::vector<std::string> signature_lines(int threads, DeviceId device) {
  std::vector<std::string> lines{"f32 " + signature(DType::f32, threads, {}),
                                 std::string("bf16 ") + cpu::bf16_path() + " " + signature(DType::bf16, threads, {})};
  if (device.is_cuda())
    for (const DType type : {DType::f32, DType::bf16})
      lines.push_back("cuda " + std::string(name_of(type)) + " " + signature(type, threads, device));
  return lines;
}

void add_signature(CLI::App& app) {
  struct Options {
    int threads = 0;
    std::string device = "auto";
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("signature", "Prints a hash of a fixed small training run and generation");
  command->add_option("--threads", o->threads, "threads; 0: all cores")->check(CLI::Range(0, 4096));
  command->add_option("--device", o->device, "auto, cpu or cuda[:N]; a GPU adds two lines of its own")
      ->capture_default_str();
  command->callback([o] {
    const int threads = o->threads > 0 ? o->threads : available_cores();
    for (const std::string& line : signature_lines(threads, device_named("--device", o->device)))
      std::printf("%s\n", line.c_str());
  });
}

}  // namespace fulgur
