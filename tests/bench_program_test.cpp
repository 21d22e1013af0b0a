// label: slow
// `fulgur bench`, `--trace`, `fulgur doctor` and dev/compare_bench as a user meets them.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

nlohmann::json document_of(const Finished& finished) {
  expect_exit(finished, 0);
  EXPECT_EQ(finished.out.find('\n'), finished.out.size() - 1) << "one document on one line";
  return nlohmann::json::parse(finished.out, nullptr, false);
}

class BenchProgram : public testing::Test {
 protected:
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the program is not built";
    std::filesystem::current_path(FULGUR_SOURCE);
  }
  Finished run(const std::vector<std::string>& arguments) { return run_program(arguments, scratch_ / "run"); }
  Finished bench(const std::string& kind, const std::vector<std::string>& more) {
    std::vector<std::string> all{"bench", kind, "--config", "configs/tiny.toml", "--json", "--seconds", "0.002"};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }
  // A document with one figure.
  std::string figure(const std::string& name, double value, const std::string& better) {
    const std::string path = (scratch_ / name).string();
    spill(path, nlohmann::json{{"bench", "x"},
                               {"figures", {{{"name", "a"}, {"value", value}, {"unit", "s"}, {"better", better}}}}}
                    .dump());
    return path;
  }
  int compared(const std::string& a, const std::string& b, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all{"/usr/bin/env", "python3", "dev/compare_bench", a, b};
    all.insert(all.end(), more.begin(), more.end());
    return Child(all, scratch_ / "compare").wait().exit;
  }

  const Scratch scratch_;
};

TEST_F(BenchProgram, a_tokenizer) {
  const nlohmann::json d = document_of(run({"bench", "tokenizer", "data/tiny/tokenizer", "data/tiny/train.txt",
                                            "data/tiny/valid.txt", "--json", "--passes", "1"}));
  EXPECT_EQ(d["bench"], "tokenizer");
  ASSERT_EQ(d["figures"].size(), 2u);
  for (const nlohmann::json& figure : d["figures"]) {
    EXPECT_EQ(figure["bytes"], std::filesystem::file_size(figure["name"].get<std::string>()));
    EXPECT_GT(figure["tokens"], 0);
    EXPECT_EQ(figure["unit"], "MB/s");
  }
  const Finished nothing = run({"bench", "tokenizer", "data/tiny/tokenizer", "/dev/null"});
  EXPECT_NE(nothing.exit, 0);
}

TEST_F(BenchProgram, whole_steps_beside_their_floors) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> kinds{
      {"prefill", {"--tokens", "100", "--chunk", "70"}},
      {"decode", {"--batch", "3", "--context", "10", "--tokens", "2"}},
      {"mixed", {"--batch", "3", "--context", "10", "--tokens", "70", "--steps", "1"}},
      {"train", {"--steps", "1", "--set", "train.tokens_per_step=512"}}};
  for (const auto& [kind, options] : kinds)
    for (const std::string type : {"f32", "bf16"}) {
      std::vector<std::string> all = options;
      all.insert(all.end(), {"--dtype", type, "--threads", "1"});
      const nlohmann::json d = document_of(bench(kind, all));
      EXPECT_EQ(d["bench"], kind);
      EXPECT_EQ(d["dtype"], type);
      EXPECT_EQ(d["threads"], 1);
      EXPECT_EQ(d["figures"].size(), kind == "mixed" ? 5u : 1u);
      EXPECT_GT(d["figures"][0]["value"].get<double>(), 0);
      double floor = 0, terms = 0;
      for (const auto& row : d["step"]["operators"]) floor += row["floor_seconds"].get<double>();
      for (const auto& term : d["step"]["floor_terms"]) terms += term["seconds"].get<double>();
      EXPECT_GT(floor, 0);
      EXPECT_NEAR(terms / floor, 1, 1e-9);
      EXPECT_NEAR(d["floor_seconds"].get<double>() / floor, 1, 1e-9);
      EXPECT_GT(d["rates"]["read_bytes_per_second"].get<double>(), 0);
      EXPECT_EQ(d.contains("memory"), kind == "train");
      for (const auto& part : d.value("memory", nlohmann::json::array()))
        EXPECT_EQ(part["used"], part["planned"]) << part;
    }
}

TEST_F(BenchProgram, the_bytes_of_a_step_that_is_too_large_for_this_machine) {
  const Finished plan =
      run({"bench", "train", "--plan", "--device", "cpu", "--set", "train.recompute=true", "--set",
           "train.sequence=1048576", "--set", "train.tokens_per_step=1048576", "--set", "moe.window=4096"});
  expect_exit(plan, 0);
  for (const char* part : {"weights", "gradients", "moments", "scratch", "tape", "in all"})
    EXPECT_NE(plan.out.find(part), std::string::npos) << plan.out;
}

TEST_F(BenchProgram, operators_alone) {
  const nlohmann::json d = document_of(bench("ops", {"--tokens", "70", "--filter", "linear", "--dtype", "f32"}));
  EXPECT_GT(d["figures"].size(), 8u);
  for (const auto& f : d["figures"]) {
    EXPECT_EQ(f["better"], "less");
    EXPECT_GT(f["products"][0]["ours"].get<double>(), 0) << f["name"];
  }
  expect_exit(run({"bench", "ops", "--config", "configs/tiny.toml", "--tokens", "70", "--filter", "nonsense"}), 2);
}

TEST_F(BenchProgram, refusals) {
  expect_exit(run({"bench"}), 2);
  expect_exit(run({"bench", "prefill", "--config", "nowhere.toml"}), 3);
  expect_exit(bench("prefill", {"--dtype", "f16"}), 2);
  expect_exit(bench("decode", {"--batch", "0"}), 2);
  expect_exit(bench("train", {"--set", "model.nonsense"}), 2);
  expect_exit(bench("decode", {"--context", "1000000000"}), 4);
}

TEST_F(BenchProgram, traces_of_one_step) {
  const std::string model = golden_folder("text01_small").string(), trace = (scratch_ / "trace.json").string(),
                    out = (scratch_ / "logits").string(), plain = (scratch_ / "plain").string();
  std::string ids = "1";
  for (int i = 2; i < 100; ++i) ids += "," + std::to_string(i);
  const Finished traced = run({"logits", model, "--ids", ids, "--chunk", "30", "--out", out, "--trace", trace});
  expect_exit(run({"logits", model, "--ids", ids, "--chunk", "30", "--out", plain}), 0);
  EXPECT_EQ(traced.exit, 0) << traced.err;
  EXPECT_NE(traced.err.find("between operators"), traced.err.npos);
  EXPECT_TRUE(slurp(out) == slurp(plain)) << "a trace changes no byte";
  const nlohmann::json document = nlohmann::json::parse(slurp(trace), nullptr, false);
  ASSERT_TRUE(document.is_object());
  std::string shape;
  for (const auto& event : document["traceEvents"])
    if (event["name"] == "embedding") shape = event["args"]["shape"];
  EXPECT_EQ(shape.substr(0, 7), "f32[30,") << "the third chunk";
  expect_exit(run({"logits", model, "--ids", ids, "--out", out, "--trace", "/nowhere/t.json"}), 3);

  const Finished trained = run({"train", "configs/tiny.toml", "--set", "run.dir=" + (scratch_ / "r").string(), "--set",
                                "train.steps=2", "--set", "train.tokens_per_step=512", "--trace", trace});
  EXPECT_EQ(trained.exit, 0) << trained.err;
  EXPECT_NE(slurp(trace).find("\"adamw\""), std::string::npos) << "of two steps the last";
  const std::string trained_model = (scratch_ / "r" / "model").string();
  const Finished written =
      run({"generate", trained_model, "--prompt", "Once", "--max-tokens", "5", "--json", "--trace", trace});
  EXPECT_EQ(written.exit, 0) << written.err;
  EXPECT_TRUE(nlohmann::json::parse(written.out, nullptr, false).is_object()) << "the table is not on standard output";
  EXPECT_NE(slurp(trace).find("\"sample\""), std::string::npos);
}

TEST_F(BenchProgram, doctor_is_well) {
  const nlohmann::json d = document_of(run({"doctor", "--json"}));
  EXPECT_EQ(d["healthy"], true);
  EXPECT_EQ(d["self_test"]["signature"][0].get<std::string>() + "\n", run({"signature"}).out.substr(0, 21));
  EXPECT_GT(d["memory"]["total_bytes"].get<double>(), 0);
  EXPECT_TRUE(d["libraries"].contains("ICU"));
  const Finished text = run({"doctor"});
  expect_exit(text, 0);
  for (const char* word : {"CPU", "memory", "libraries", "self-test", "signature"})
    EXPECT_NE(text.out.find(word), text.out.npos) << word;
}

TEST_F(BenchProgram, figures_are_compared_in_their_own_direction) {
  const std::string slow = figure("slow", 2, "less"), fast = figure("fast", 1, "less"), low = figure("low", 1, "more"),
                    high = figure("high", 2, "more");
  EXPECT_EQ(compared(fast, slow, {"--gate"}), 1);
  EXPECT_EQ(compared(slow, fast, {"--gate"}), 0);
  EXPECT_EQ(compared(high, low, {"--gate"}), 1);
  EXPECT_EQ(compared(low, high, {"--gate"}), 0);
  EXPECT_EQ(compared(fast, slow), 0);
  EXPECT_EQ(compared(fast, slow, {"--gate", "--threshold", "150"}), 0);
  EXPECT_EQ(compared(fast, (scratch_ / "nowhere").string()), 1);
}

}  // namespace
}  // namespace fulgur::tests
