// label: slow
// What the program promises as a whole: identical bytes for any chunks, threads and instruction set, one set of weights
// for any micro-batches, one signature, and exit codes with one line.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

// FULGUR_ISA values that this CPU takes, the plainest first, and at the end the empty one, "unset".
std::vector<std::string> instruction_sets(const Scratch& scratch) {
  std::vector<std::string> sets;
  for (const std::string isa : {"neon", "avx2", "avx512", "amx"}) {
    setenv("FULGUR_ISA", isa.c_str(), 1);
    if (run_program({"signature"}, scratch / "isa").exit == 0) sets.push_back(isa);
  }
  unsetenv("FULGUR_ISA");
  sets.emplace_back();
  return sets;
}

void choose(const std::string& isa) {
  if (isa.empty()) unsetenv("FULGUR_ISA");
  else setenv("FULGUR_ISA", isa.c_str(), 1);
}

std::string ids_of_small(int64_t count) {
  std::string list;
  for (int64_t i = 0; i < count; ++i) list += (i ? "," : "") + std::to_string((i * 37 + i * i % 91) % 128);
  return list;
}

TEST(Program, logits_keep_their_bytes) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const std::string model = golden_folder("text01_small").string(), ids = ids_of_small(300),
                    out = (scratch / "out").string();
  const auto logits = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"logits", model, "--ids", ids, "--out", out, "--states"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_exit(run_program(arguments, scratch / "run"), 0);
    return slurp(out);
  };
  const std::string whole = logits({"--threads", "1"});
  ASSERT_GT(whole.size(), 300u * 128 * 4);
  for (const std::string& isa : instruction_sets(scratch)) {
    choose(isa);
    const std::string whole_bf16 = logits({"--dtype", "bf16", "--threads", "1"});
    EXPECT_EQ(whole_bf16.size(), whole.size()) << "the same tensors, f32 in the file";
    EXPECT_FALSE(whole_bf16 == whole);
    for (const std::string chunk : {"1", "17", "63", "64", "65", "256", "300"})
      for (const std::string threads : {"1", "2"}) {
        EXPECT_TRUE(logits({"--chunk", chunk, "--threads", threads}) == whole)
            << "chunk " << chunk << ", threads " << threads << ", ISA " << isa;
        EXPECT_TRUE(logits({"--chunk", chunk, "--threads", threads, "--dtype", "bf16"}) == whole_bf16)
            << "bf16, chunk " << chunk << ", threads " << threads << ", ISA " << isa;
      }
  }
  choose("");
}

TEST(Program, imposed_routing_of_the_own_run_changes_nothing) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const std::string model = golden_folder("text01_small").string(), ids = ids_of_small(100);
  const std::string own = (scratch / "own").string(), imposed = (scratch / "imposed").string();
  for (const std::string type : {"bf16", "f32"}) {
    std::vector<std::string> arguments{"logits", model, "--ids", ids, "--states", "--json", "--dtype", type, "--out"};
    arguments.push_back(own);
    const Finished finished = run_program(arguments, scratch / "run");
    expect_exit(finished, 0);
    EXPECT_NE(finished.out.find("\"dtype\":\"" + type + "\""), std::string::npos) << finished.out;
    arguments.back() = imposed;
    arguments.insert(arguments.end(), {"--routing", own});
    expect_exit(run_program(arguments, scratch / "run"), 0);
    EXPECT_TRUE(slurp(own) == slurp(imposed)) << type;
  }
  expect_exit(
      run_program({"logits", model, "--ids", ids_of_small(99), "--out", imposed, "--routing", own}, scratch / "run"),
      3);
}

// configs/tiny.toml from the source folder, where its data lies.
std::string trained(const Scratch& scratch, const std::string& name, const std::vector<std::string>& settings) {
  std::filesystem::current_path(FULGUR_SOURCE);
  const std::string dir = (scratch / name).string();
  std::vector<std::string> arguments{"train", "configs/tiny.toml", "--set", "run.dir=" + dir, "--set", "train.steps=6"};
  for (const std::string& s : settings) arguments.insert(arguments.end(), {"--set", s});
  const Finished finished = run_program(arguments, scratch / "run");
  EXPECT_EQ(finished.exit, 0) << finished.err;
  EXPECT_NE(finished.out.find("bits per byte"), finished.out.npos);
  return slurp(scratch / name / "model" / "model.safetensors");
}

TEST(Program, threads_and_micro_batches_train_the_same_weights) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const std::string whole = trained(scratch, "a", {"train.threads=1", "train.micro_rows=4"});
  ASSERT_GT(whole.size(), 100000u);
  EXPECT_TRUE(trained(scratch, "b", {"train.threads=2", "train.micro_rows=4"}) == whole);
  EXPECT_TRUE(trained(scratch, "c", {"train.threads=2", "train.micro_rows=2"}) == whole);
  EXPECT_TRUE(trained(scratch, "d", {"train.threads=1", "train.micro_rows=1"}) == whole);
  const std::string plainest = instruction_sets(scratch).front();
  choose(plainest);
  EXPECT_TRUE(trained(scratch, "e", {"train.threads=2"}) == whole) << plainest;
  choose("");
  const std::string lanes = trained(scratch, "f", {"parallel.lanes=4", "train.micro_rows=1"});
  EXPECT_FALSE(lanes == whole) << "lanes are another order of sums";
  EXPECT_TRUE(trained(scratch, "g", {"parallel.lanes=4", "train.micro_rows=2", "train.threads=1"}) == lanes);
  EXPECT_FALSE(trained(scratch, "h", {"train.seed=1"}) == whole);
  EXPECT_TRUE(trained(scratch, "i", {"train.recompute=true", "train.micro_rows=2"}) == whole);
}

TEST(Program, bf16_trains_the_same_weights_and_writes_them) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const std::string bf16 = "train.dtype=bf16", f32 = trained(scratch, "f32", {});
  const std::string whole = trained(scratch, "a", {bf16, "train.threads=1", "train.micro_rows=4"});
  EXPECT_LT(whole.size(), f32.size() * 6 / 10) << "two bytes a weight";
  EXPECT_NE(slurp(scratch / "a" / "model" / "config.json").find("bfloat16"), std::string::npos);
  EXPECT_EQ(slurp(scratch / "f32" / "model" / "config.json").find("bfloat16"), std::string::npos);
  EXPECT_TRUE(trained(scratch, "b", {bf16, "train.threads=2", "train.micro_rows=1"}) == whole);
  EXPECT_TRUE(trained(scratch, "c", {bf16, "train.threads=2", "train.micro_rows=2", "train.recompute=true"}) == whole);
  for (const std::string type : {"f32", "bf16"})
    expect_exit(run_program({"generate", (scratch / "a" / "model").string(), "--prompt", "Once", "--max-tokens", "5",
                             "--dtype", type},
                            scratch / "g"),
                0);
}

TEST(Program, a_trained_model_is_read_back_and_continues_text) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  trained(scratch, "run", {});
  const std::string model = (scratch / "run" / "model").string();
  expect_exit(run_program({"inspect", model, "--json"}, scratch / "o"), 0);
  const auto generate = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"generate", model, "--prompt", "Once", "--max-tokens", "20", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = run_program(arguments, scratch / "g");
    expect_exit(finished, 0);
    return finished.out.substr(0, finished.out.find("\"timings\""));
  };
  EXPECT_EQ(generate({"--seed", "5"}), generate({"--seed", "5", "--threads", "1"}));
  EXPECT_NE(generate({"--seed", "5"}), generate({"--seed", "6"}));
  EXPECT_EQ(generate({"--temperature", "0"}), generate({"--top-k", "1", "--seed", "9"}));
  // Going on from it starts from its weights.
  const std::string again = (scratch / "again").string();
  spill(scratch / "more.toml",
        "[model]\npath = \"" + model +
            "\"\n[data]\ntrain = [\"data/tiny/train.txt\"]\ntokenizer = \"data/tiny/tokenizer\"\n"
            "[train]\nsteps = 1\nsequence = 64\ntokens_per_step = 128\nlr = 1e-9\n[run]\ndir = \"" +
            again + "\"\n");
  expect_exit(run_program({"train", (scratch / "more.toml").string()}, scratch / "o"), 0);
}

TEST(Program, one_signature) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const auto first_line = [](const std::string& out) { return out.substr(0, out.find('\n')); };
  const std::string natural = first_line(run_program({"signature"}, scratch / "s").out);
  EXPECT_EQ(natural.size(), std::string("f32 0123456789abcdef").size());
  for (const std::string& isa : instruction_sets(scratch)) {
    choose(isa);
    const std::string one = run_program({"signature", "--threads", "1"}, scratch / "s").out;
    EXPECT_EQ(first_line(one), natural) << isa;
    EXPECT_NE(one.find("\nbf16 "), one.npos) << one;
    EXPECT_EQ(run_program({"signature", "--threads", "2"}, scratch / "s").out, one) << isa;
  }
  choose("");
}

struct Refusal {
  int code;
  std::vector<std::string> arguments;
  std::string word;
};

TEST(Program, refusals_are_one_line_with_the_code_of_the_contract) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  std::filesystem::current_path(FULGUR_SOURCE);
  const Scratch scratch;
  const std::string model = golden_folder("text01_tiny").string(), out = (scratch / "x").string(),
                    dir = "run.dir=" + (scratch / "run").string();
  const std::vector<Refusal> refusals{
      {2, {}, "subcommand"},
      {2, {"fly"}, "fly"},
      {2, {"logits", model, "--ids", "1,2", "--out", out, "--chunk", "0"}, "chunk"},
      {2, {"logits", model, "--ids", "1,61", "--out", out}, "61"},
      {2, {"logits", model, "--ids", "[1, [2]]", "--out", out}, "--ids"},
      {2, {"logits", model, "--ids", "1", "--out", out, "--dtype", "f16"}, "f32 or bf16"},
      {2, {"logits", model, "--ids", "1", "--out", out, "--device", "cuda"}, "cuda"},
      {2, {"logits", model, "--ids", "1", "--out", out, "--device", "gpu"}, "auto, cpu, cuda"},
      {2, {"logits", model, "--ids", "1", "--out", out, "--device", "cpu", "--check-twins"}, "--check-twins"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "train.device=gpu"}, "train.device gpu"},
      {3, {"logits", model, "--ids", "nowhere.json", "--out", out}, "nowhere.json"},
      {3, {"logits", "nowhere", "--ids", "1", "--out", out}, "nowhere"},
      {3, {"logits", model, "--ids", "1", "--out", "/nowhere/x"}, "/nowhere"},
      {2, {"gradients", model, "--ids", "1", "--out", out}, "two tokens"},
      {3, {"generate", model, "--prompt", "x"}, "tokenizer"},
      {2, {"generate", model}, "--prompt"},
      {3, {"train", "nowhere.toml"}, "nowhere.toml"},
      {2, {"train", "configs/tiny.toml", "--resume"}, "--resume"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "train.stepz=3"}, "train.steps"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "train.steps=many"}, "train.steps"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "train.dtype=f16"}, "train.dtype"},
      {2,
       {"train", "configs/tiny.toml", "--set", dir, "--set", "train.dtype=bf16", "--set", "train.sequence=32"},
       "multiple of 64"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "train.micro_rows=3"}, "train.micro_rows"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "parallel.tp=2"}, "parallel.tp"},
      {2, {"train", "configs/tiny.toml", "--set", dir, "--set", "model.vocab_size=100"}, "vocab_size"},
      {2, {"train", "configs/tiny.toml", "--set", "run.dir=tests"}, "exists"},
      {3, {"train", "configs/tiny.toml", "--set", dir, "--set", "data.train=[\"nowhere.txt\"]"}, "nowhere.txt"},
      {4,
       {"train", "configs/tiny.toml", "--set", dir, "--set", "model.num_local_experts=60000", "--set",
        "model.intermediate_size=1000000"},
       "bytes"},
  };
  for (const Refusal& r : refusals) {
    const Finished finished = run_program(r.arguments, scratch / "run_output");
    expect_exit(finished, r.code);
    EXPECT_NE(finished.err.find(r.word), finished.err.npos) << r.word << " in: " << finished.err;
  }
  EXPECT_FALSE(std::filesystem::exists(scratch / "run")) << "a refused run leaves no folder";
}

TEST(Program, unknown_instruction_set) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  choose("sse9");
  expect_exit(run_program({"signature"}, scratch / "s"), 2);
  choose("");
}

}  // namespace
}  // namespace fulgur::tests
