// label: slow
// A run under watch, as the program does it: health, alarms, samples, validation by file and TensorBoard's events; the
// weights are those of a run without, and a run that was killed goes on to the same files.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;
using Json = nlohmann::json;

const Words kSmall{"model.hidden_size=32",
                   "model.num_hidden_layers=2",
                   "model.attn_type_list=[0, 1]",
                   "model.num_attention_heads=2",
                   "model.num_key_value_heads=1",
                   "model.intermediate_size=32",
                   "model.num_local_experts=2",
                   "train.sequence=128",
                   "train.tokens_per_step=256",
                   "train.steps=6",
                   "train.warmup=1",
                   "train.threads=1",
                   "data.train=[\"data/tiny/valid.txt\"]"};
const Words kWatched{"train.health_every=2", "train.validate_every=3",
                     "train.save_every=2",   "data.validation=[\"data/tiny/valid.txt\", \"data/tiny/train.txt\"]",
                     "sample.every=2",       "sample.prompts=[\"Once upon\", \"The \\\"<cat>\\\"\"]",
                     "sample.tokens=8"};

std::vector<Json> lines_of(const std::string& text) {
  std::vector<Json> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) all.push_back(Json::parse(line));
  return all;
}

// The figures of a step's line, or of a validation's.
Json figures_at(const fs::path& dir, int64_t step, const std::string& figure) {
  for (const Json& line : lines_of(slurp(dir / "metrics.jsonl")))
    if (line.at("step") == step && line.contains(figure)) return line;
  ADD_FAILURE() << "step " << step << " has no " << figure;
  return {};
}

fs::path event_file(const fs::path& dir) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) found.push_back(entry.path());
  EXPECT_EQ(found.size(), 1u) << dir;
  return found.empty() ? fs::path() : found[0];
}

class Watch : public ::testing::Test {
 protected:
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the program is not built";
    fs::current_path(FULGUR_SOURCE);
  }
  Finished train(const std::string& name, const std::vector<Words>& settings, const Words& more = {},
                 const std::string& fault = "") const {
    Words all{"/usr/bin/env"};
    if (!fault.empty()) all.push_back("FULGUR_FAULT=" + fault);
    all.insert(all.end(), {program(), "train", "configs/tiny.toml", "--set", "run.dir=" + (scratch_ / name).string()});
    for (const Words& list : settings)
      for (const std::string& setting : list) all.insert(all.end(), {"--set", setting});
    all.insert(all.end(), more.begin(), more.end());
    return Child(all, scratch_ / (name + "_output")).wait();
  }
  std::vector<Json> events(const std::string& name) const {
    const Finished read =
        Child({"/usr/bin/env", "python3", "tests/read_events.py", event_file(scratch_ / name).string()},
              scratch_ / "events")
            .wait();
    EXPECT_EQ(read.exit, 0) << read.err;
    return lines_of(read.out);
  }
  std::string weights(const std::string& name) const { return slurp(scratch_ / name / "model/model.safetensors"); }

  const Scratch scratch_;
};

TEST_F(Watch, leaves_the_weights_as_they_are_and_writes_down_what_it_sees) {
  ASSERT_EQ(train("plain", {kSmall, {"run.tensorboard=false"}}).exit, 0);
  const Finished watched = train("watched", {kSmall, kWatched});
  ASSERT_EQ(watched.exit, 0) << watched.err;
  ASSERT_GT(weights("plain").size(), 10000u);
  EXPECT_TRUE(weights("plain") == weights("watched"));

  const fs::path dir = scratch_ / "watched";
  const Json step = figures_at(dir, 4, "loss"), between = figures_at(dir, 5, "loss");
  for (const char* figure : {"residual_rms_0", "residual_rms_2", "state_rms_0", "largest_logit", "gradient_norm_router",
                             "router_entropy_normalised_1", "idle_experts", "seconds", "time"})
    EXPECT_TRUE(step.contains(figure)) << figure;
  EXPECT_FALSE(between.contains("residual_rms_0"));
  EXPECT_FALSE(step.contains("state_rms_1")) << "softmax";
  const Json validation = figures_at(dir, 3, "validation_bits_per_byte");
  const double valid = validation.at("validation_bits_per_byte/valid"),
               more = validation.at("validation_bits_per_byte/train"), all = validation.at("validation_bits_per_byte");
  EXPECT_TRUE(std::min(valid, more) <= all && all <= std::max(valid, more)) << validation;
  const double a = double(fs::file_size("data/tiny/valid.txt")), b = double(fs::file_size("data/tiny/train.txt"));
  EXPECT_NEAR(all, (a * valid + b * more) / (a + b), 1e-3);

  const std::vector<Json> samples = lines_of(slurp(dir / "samples.jsonl"));
  ASSERT_EQ(samples.size(), 6u);
  EXPECT_EQ(samples[1].at("prompt"), "The \"<cat>\"");
  EXPECT_EQ(samples[2].at("step"), 4);
  EXPECT_NE(watched.err.find("step 2: Once upon|"), std::string::npos) << watched.err;
  EXPECT_FALSE(fs::exists(scratch_ / "plain/samples.jsonl"));
}

TEST_F(Watch, events_are_what_the_other_files_say) {
  ASSERT_EQ(train("run", {kSmall, kWatched}).exit, 0);
  const std::vector<Json> metrics = lines_of(slurp(scratch_ / "run/metrics.jsonl")),
                          samples = lines_of(slurp(scratch_ / "run/samples.jsonl")), all = events("run");
  ASSERT_EQ(all.size(), metrics.size() + samples.size());
  size_t line = 0, sample = 0;
  for (const Json& event : all) {
    if (event.contains("texts")) {
      const Json& written = samples.at(sample++);
      const std::string text = written.at("prompt").get<std::string>() + written.at("text").get<std::string>();
      EXPECT_EQ(event.at("texts").begin().value(), text);
      EXPECT_EQ(event.at("texts").begin().key(), sample % 2 ? "samples/1" : "samples/2");
      continue;
    }
    const Json& written = metrics.at(line++);
    EXPECT_EQ(event.at("step"), written.at("step"));
    size_t figures = 0;
    for (const auto& [key, value] : written.items()) {
      if (key == "step" || key == "time" || value.is_null() || key.starts_with("idle_expert_")) continue;
      ++figures;
      std::string tag = key;
      if (key.starts_with("residual_rms_")) tag = "residual_rms/" + key.substr(13);
      else if (isdigit(key.back())) tag[key.rfind('_')] = '/';
      ASSERT_TRUE(event.at("scalars").contains(tag)) << tag;
      EXPECT_FLOAT_EQ(event.at("scalars").at(tag).get<float>(), value.get<float>()) << tag;
    }
    EXPECT_EQ(event.at("scalars").size(), figures);
  }
}

// What a run leaves, but for its clock.
Json left_of(const fs::path& dir) {
  Json all = Json::array();
  for (Json line : lines_of(slurp(dir / "metrics.jsonl"))) {
    for (const char* clock : {"tokens_per_second", "seconds", "time"}) line.erase(clock);
    all.push_back(line);
  }
  return {all, lines_of(slurp(dir / "samples.jsonl")), lines_of(slurp(dir / "alarms.jsonl"))};
}

TEST_F(Watch, a_killed_run_goes_on_to_the_same_files) {
  const Words alarming{"alarm.rms=0.001", "alarm.entropy=0.999999"};
  ASSERT_EQ(train("whole", {kSmall, kWatched, alarming}).exit, 0);
  ASSERT_FALSE(lines_of(slurp(scratch_ / "whole/alarms.jsonl")).empty());
  for (const int call : {120, 160, 240}) {  // of some 300: in the second save, and in the third
    const std::string name = "killed" + std::to_string(call);
    const Finished killed = train(name, {kSmall, kWatched, alarming}, {}, std::to_string(call) + ":kill");
    ASSERT_NE(killed.signal, 0) << call << ": " << killed.err;
    ASSERT_TRUE(fs::exists(scratch_ / name / "checkpoints/step-2")) << call;
    ASSERT_EQ(train(name, {kSmall, kWatched, alarming}, {"--resume"}).exit, 0);
    EXPECT_TRUE(weights(name) == weights("whole"));
    EXPECT_EQ(left_of(scratch_ / name), left_of(scratch_ / "whole")) << call;
    EXPECT_EQ(events(name).size(), events("whole").size());
  }
}

TEST_F(Watch, an_alarm_stops_the_run_and_keeps_its_checkpoints) {
  const Words stopping{"train.save_every=1", "train.health_every=1", "alarm.rms=0.001", "alarm.stop=[\"rms\"]"};
  const Finished stopped = train("run", {kSmall, stopping});
  EXPECT_EQ(stopped.exit, 2);
  EXPECT_NE(stopped.err.find("fulgur: alarm at step 1: RMS of "), std::string::npos) << stopped.err;
  EXPECT_NE(stopped.err.find("--resume"), std::string::npos) << stopped.err;
  EXPECT_TRUE(fs::exists(scratch_ / "run/checkpoints/step-1"));
  EXPECT_FALSE(fs::exists(scratch_ / "run/model"));
  EXPECT_EQ(lines_of(slurp(scratch_ / "run/alarms.jsonl"))[0].at("rule"), "rms");
  const Finished resumed = train("run", {kSmall, stopping}, {"--resume"});
  EXPECT_EQ(resumed.exit, 0) << "the alarm is known: " << resumed.err;
  EXPECT_EQ(train("other", {kSmall, stopping, {"train.keep=1"}}).exit, 2);
  EXPECT_FALSE(fs::exists(scratch_ / "other"));
}

TEST_F(Watch, a_huge_learning_rate_raises_alarms) {
  const Words fast{"train.steps=40", "train.lr=100", "train.clip=0", "train.health_every=1"};
  const Finished finished = train("run", {kSmall, fast});
  const std::vector<Json> alarms = lines_of(slurp(scratch_ / "run/alarms.jsonl"));
  ASSERT_FALSE(alarms.empty()) << finished.err;
  EXPECT_NE(finished.err.find(alarms[0].at("text").get<std::string>()), std::string::npos) << finished.err;
  if (finished.exit != 0) {
    EXPECT_EQ(alarms.back().at("rule"), "not_finite");
  }
}

TEST_F(Watch, runs_are_listed_compared_and_plotted) {
  ASSERT_EQ(train("a", {kSmall}).exit, 0);
  ASSERT_EQ(train("b", {kSmall, {"train.lr=0.002", "train.steps=4", "train.decay=5"}}).exit, 0);
  const auto fulgur = [&](const Words& arguments) {
    const Finished finished = run_program(arguments, scratch_ / "out");
    EXPECT_EQ(finished.exit, 0) << finished.err;
    return finished.out;
  };
  const std::string a = (scratch_ / "a").string(), b = (scratch_ / "b").string();
  const Json runs = Json::parse(fulgur({"runs", scratch_.path().string(), "--json"}));
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_TRUE(runs[0].at("state") == "finished" && runs[0].at("step") == 6 && runs[1].at("steps") == 4);
  EXPECT_NE(fulgur({"runs", scratch_.path().string()}).find("finished"), std::string::npos);
  const Json compared = Json::parse(fulgur({"runs", "compare", a, b, "--json"}));
  Json want{
      {"run.dir", {a, b}}, {"train.lr", {0.008, 0.002}}, {"train.steps", {6, 4}}, {"train.final_lr", {0.0008, 0.0002}}};
  EXPECT_EQ(compared.at("configuration"), want);
  EXPECT_EQ(compared.at("figures")[1].at("step"), 4);
  const std::string text = fulgur({"runs", "compare", a, b});
  EXPECT_NE(text.find("train.lr"), std::string::npos) << text;
  EXPECT_EQ(text.find("train.warmup"), std::string::npos) << text;
  const std::string svg = (scratch_ / "c.svg").string();
  fulgur({"plot", a, b, "--out", svg, "--x", "tokens"});
  EXPECT_TRUE(slurp(svg).starts_with("<svg ")) << slurp(svg).substr(0, 100);
  EXPECT_NE(slurp(svg).find(">tokens</text>"), std::string::npos);
  EXPECT_EQ(run_program({"plot", scratch_.path().string()}, scratch_ / "out").exit, 3);
  EXPECT_EQ(run_program({"plot", a, "--x", "epochs"}, scratch_ / "out").exit, 2);
}

}  // namespace
}  // namespace fulgur::tests
