// label: slow
// Runs whose batch grows, whose mixture changes and whose loss spikes: killed anywhere they end in the bytes of a run
// that never was, and a spike costs them nothing but the rows that made it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/prepared.h"
#include "tests/scratch.h"
#include "train/run_checkpoint.h"
#include "train/trainer.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;
using Documents = std::vector<std::vector<int32_t>>;

const Words kSmall{"model.hidden_size=32",
                   "model.num_hidden_layers=2",
                   "model.attn_type_list=[0, 1]",
                   "model.num_attention_heads=2",
                   "model.num_key_value_heads=1",
                   "model.intermediate_size=32",
                   "model.num_local_experts=2",
                   "train.sequence=64",
                   "train.tokens_per_step=256",
                   "train.threads=1",
                   "train.warmup=2"};

// The text in two sources; `poisoned`: one shard of the second is a long document of noise, of the same tokens' count.
void prepare_texts(const fs::path& folder, bool poisoned) {
  const Documents all = tokenized("data/tiny/train.txt");
  const int64_t half = int64_t(all.size()) / 2;
  std::vector<int32_t> longest{all[0]};
  for (size_t d = 1; longest.size() < 1500; ++d)
    longest.insert(longest.end() - 1, all.at(d).begin() + 1, all[d].end() - 1);
  const Documents first(all.begin(), all.begin() + half), second(all.begin() + half, all.end());
  prepare(folder, {{"tales", 2, {first}}, {"web", 1, {second, {poisoned ? noise(longest, 3) : longest}}}});
}

struct Results {
  std::string weights, metrics;
  bool operator==(const Results&) const = default;
};

// What a run leaves, but for its speed.
Results results_of(const fs::path& dir) {
  Results results{slurp(dir / "model" / "model.safetensors"), ""};
  std::istringstream lines(slurp(dir / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    nlohmann::ordered_json values = nlohmann::ordered_json::parse(line);
    for (const char* clock : {"tokens_per_second", "seconds", "time"}) values.erase(clock);
    results.metrics += values.dump() + "\n";
  }
  return results;
}

class Course : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
  }
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the program is not built";
    fs::current_path(FULGUR_SOURCE);
  }
  Finished train(const fs::path& dir, const Words& settings, const Words& more = {},
                 const std::string& fault = "") const {
    Words all{"/usr/bin/env"};
    if (!fault.empty()) all.push_back("FULGUR_FAULT=" + fault);
    all.insert(all.end(), {program(), "train", "configs/tiny.toml", "--set", "run.dir=" + dir.string()});
    for (const Words* list : {&kSmall, &settings})
      for (const std::string& setting : *list) all.insert(all.end(), {"--set", setting});
    all.insert(all.end(), more.begin(), more.end());
    return Child(all, scratch_ / (dir.filename().string() + "_output")).wait();
  }
  std::string data(const std::string& folder) const { return "data.train=\"" + (scratch_ / folder).string() + "\""; }
  const Scratch scratch_;
};

double bits_per_byte(const fs::path& dir) {
  const std::string metrics = slurp(dir / "metrics.jsonl");
  const size_t last = metrics.rfind('\n', metrics.size() - 2);
  return nlohmann::json::parse(metrics.substr(last + 1)).at("validation_bits_per_byte");
}

TEST_F(Course, ASpikeIsLeftOutAndCostsNothingElse) {
  prepare_texts(scratch_ / "clean", false), prepare_texts(scratch_ / "poisoned", true);
  const Words settings{"train.steps=240", "train.save_every=7", "data.weights={tales=1, web=2}"};
  Words watched = settings;
  watched.push_back("train.spike={window=16, sigma=8, rewind_steps=2, max=20}");
  const auto with = [&](Words words, const std::string& folder) {
    words.push_back(data(folder));
    return words;
  };
  expect_exit(train(scratch_ / "clean_run", with(settings, "clean")), 0);
  expect_exit(train(scratch_ / "blind_run", with(settings, "poisoned")), 0);
  const Finished finished = train(scratch_ / "run", with(watched, "poisoned"));
  expect_exit(finished, 0);
  EXPECT_NE(finished.err.find("are left out; going on after step"), std::string::npos);
  EXPECT_NE(slurp(scratch_ / "run" / "metrics.jsonl").find("\"skipped_from\""), std::string::npos);
  EXPECT_FALSE(open_run_checkpoint(scratch_ / "run").spikes.skipped.empty());
  const double clean = bits_per_byte(scratch_ / "clean_run"), blind = bits_per_byte(scratch_ / "blind_run");
  EXPECT_NEAR(bits_per_byte(scratch_ / "run") / clean, 1, 0.01);
  EXPECT_GT(blind, bits_per_byte(scratch_ / "run")) << "the noise does harm";
}

// Batches of 256, 384 and 512 tokens; another mixture from step 12 and from 6,000 tokens on; a spike.
TEST_F(Course, KilledAnywhereItEndsInTheSameBytes) {
  prepare_texts(scratch_ / "poisoned", true);
  const Words settings{data("poisoned"),
                       "train.steps=40",
                       "train.save_every=3",
                       "train.keep=3",
                       "train.validate_every=8",
                       "train.batch_ramp=[{from_step=9, tokens_per_step=384}, {from_tokens=7000, tokens_per_step=512}]",
                       "data.weights={tales=5, web=2}",
                       "data.stage=[{from_step=12, weights={tales=1, web=1}}, {from_tokens=6000, weights={tales=1, "
                       "web=4}}]",
                       "train.spike={window=6, sigma=4, rewind_steps=2, max=9}"};
  expect_exit(train(scratch_ / "whole", settings), 0);
  const Results whole = results_of(scratch_ / "whole");
  EXPECT_NE(whole.metrics.find("\"skipped_from\""), std::string::npos) << "the run has a spike";
  EXPECT_NE(whole.metrics.find("\"batch_tokens\":512,"), std::string::npos);
  int64_t killed = 0;
  for (uint64_t i = 0; i < 10; ++i) {
    const fs::path dir = scratch_ / "run";
    fs::remove_all(dir);
    Finished finished;
    Words more;
    for (uint64_t kills = 0; kills < 4; ++kills) {
      if (i % 2 == 1)
        more.insert(more.end(), {"--set", "train.save_every=" + std::to_string(2 + kills)});  // changes no bit
      finished = train(dir, settings, more, std::to_string(130 + philox(i, kills, 11)[0] % 900) + ":kill");
      if (finished.signal == 0) break;
      EXPECT_EQ(finished.signal, SIGKILL) << finished.err;
      ++killed;
      if (newest_checkpoint(dir) < 0) fs::remove_all(dir), more.clear();
      else more = {"--resume"};
    }
    if (finished.signal != 0) expect_exit(train(dir, settings, more), 0);
    EXPECT_TRUE(results_of(dir) == whole) << "kill series " << i << "\n" << results_of(dir).metrics << whole.metrics;
  }
  EXPECT_GE(killed, 20);
}

}  // namespace
}  // namespace fulgur::tests
