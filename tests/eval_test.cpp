// label: slow
// eval measures what training measured, whatever its chunks, company and threads.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

TEST(Eval, perplexity_is_the_trainers) {
  if (program().empty()) GTEST_SKIP() << "the build has no program";
  const Scratch scratch;
  const fs::path old = fs::current_path();
  fs::current_path(FULGUR_SOURCE);
  const std::string run = (scratch / "run").string(), model = run + "/model";
  expect_exit(run_program({"train", "configs/tiny.toml", "--set", "run.dir=" + run, "--set", "train.steps=6"},
                          scratch / "train"),
              0);
  const auto eval = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"eval",   model,     "--suite", "perplexity", "--data", "data/tiny/valid.txt",
                                       "--json", "--dtype", "f32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = run_program(arguments, scratch / "eval");
    expect_exit(finished, 0);
    return Json::parse(finished.out, nullptr, false);
  };
  double trained = 0;
  const std::string metrics = slurp(run + "/metrics.jsonl");
  const size_t at = metrics.rfind("\"validation_bits_per_byte\":");
  ASSERT_NE(at, metrics.npos);
  trained = std::stod(metrics.substr(metrics.find(':', at) + 1));
  const Json whole = eval({"--chunk", "4096"});
  EXPECT_NEAR(whole.at("bits_per_byte").get<double>(), trained, 1e-6 * trained);
  for (const std::vector<std::string>& other : std::vector<std::vector<std::string>>{
           {"--chunk", "17", "--parallel", "1"}, {"--chunk", "64", "--parallel", "3", "--threads", "1"}})
    EXPECT_EQ(eval(other).at("nats"), whole.at("nats"));
  const Json kinds = eval({"--data", "a=data/tiny/valid.txt"}).at("kinds");  // beside the file under its own name
  ASSERT_EQ(kinds.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(kinds[i].at("kind"), i == 0 ? "a" : "valid");
    EXPECT_EQ(kinds[i].at("nats"), whole.at("nats"));
  }
  const Json positions = whole.at("positions");
  ASSERT_FALSE(positions.empty());
  EXPECT_EQ(positions[0].at("from"), 1);
  expect_exit(run_program({"eval", model, "--suite", "perplexity"}, scratch / "none"), 2);
  expect_exit(run_program({"eval", model, "--suite", "other", "--data", "x"}, scratch / "none"), 2);
  expect_exit(run_program({"eval", model, "--suite", "perplexity", "--data", "nowhere.txt"}, scratch / "none"), 3);
  spill(scratch / "empty.txt", "<|endoftext|>\n");
  expect_exit(run_program({"eval", model, "--suite", "perplexity", "--data", (scratch / "empty.txt").string()},
                          scratch / "none"),
              2);
  fs::current_path(old);
}

}  // namespace
}  // namespace fulgur::tests
