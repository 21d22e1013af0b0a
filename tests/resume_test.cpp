// label: slow
// A run that is killed, stopped or fails anywhere goes on to the very bytes of a run that never was; what it may not go
// on from is refused in one line.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/random.h"
#include "tests/scratch.h"
#include "train/run_checkpoint.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

// Three steps that are saved after the second and the third, and validated there.
const Words kSmall{"model.hidden_size=32",
                   "model.num_hidden_layers=2",
                   "model.attn_type_list=[0, 1]",
                   "model.num_attention_heads=2",
                   "model.num_key_value_heads=1",
                   "model.intermediate_size=32",
                   "model.num_local_experts=2",
                   "train.sequence=64",
                   "train.tokens_per_step=128",
                   "train.steps=3",
                   "train.warmup=1",
                   "train.threads=1",
                   "train.save_every=2",
                   "train.validate_every=2",
                   "train.keep=1",
                   "data.train=[\"data/tiny/valid.txt\"]"};

// What a run leaves, but for its speed.
struct Results {
  std::string weights, metrics;
  bool operator==(const Results&) const = default;
};

Results results_of(const fs::path& dir) {
  Results results{slurp(dir / "model" / "model.safetensors"), ""};
  std::istringstream lines(slurp(dir / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    results.metrics += line.substr(0, line.find(", \"tokens_per_second\"")) + "\n";
  return results;
}

std::vector<std::string> checkpoints_in(const fs::path& dir) {
  std::vector<std::string> names;
  if (fs::exists(dir / "checkpoints"))
    for (const auto& entry : fs::directory_iterator(dir / "checkpoints")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

bool has_checkpoint(const fs::path& dir) {
  const std::vector<std::string> names = checkpoints_in(dir);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return !name.ends_with(".tmp"); });
}

// Progress, and then one line with each of the words.
void expect_refused(const Finished& finished, int code, const Words& words) {
  EXPECT_EQ(finished.signal, 0);
  EXPECT_EQ(finished.exit, code) << finished.err;
  const size_t line = finished.err.find("fulgur: ");
  ASSERT_NE(line, finished.err.npos) << finished.err;
  EXPECT_EQ(finished.err.find('\n', line), finished.err.size() - 1) << finished.err;
  for (const std::string& word : words) EXPECT_NE(finished.err.find(word, line), finished.err.npos) << finished.err;
}

// body(n) for n = 1, 2, ... on two threads until it answers false.
template <class Body>
int64_t for_each_call(const Body& body) {
  std::atomic<int64_t> next{1}, end{INT64_MAX};
  const auto work = [&] {
    for (int64_t n; (n = next++) < end;)
      if (!body(n)) end = std::min<int64_t>(end, n);
  };
  std::thread other(work);
  work();
  other.join();
  return end;
}

class Resume : public ::testing::Test {
 protected:
  // Thousands of flushes, which a file system in memory answers at once.
  static void SetUpTestSuite() {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
  }
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the program is not built";
    fs::current_path(FULGUR_SOURCE);
  }
  Words arguments(const fs::path& dir, const Words& settings, const Words& more, const std::string& fault) const {
    Words all{"/usr/bin/env"};
    if (!fault.empty()) all.push_back("FULGUR_FAULT=" + fault);
    all.insert(all.end(), {program(), "train", "configs/tiny.toml", "--set", "run.dir=" + dir.string()});
    for (const Words* list : {&kSmall, &settings})
      for (const std::string& setting : *list) all.insert(all.end(), {"--set", setting});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Child start(const fs::path& dir, const Words& settings = {}, const Words& more = {},
              const std::string& fault = "") const {
    return Child(arguments(dir, settings, more, fault), scratch_ / (dir.filename().string() + "_output"));
  }
  Finished train(const fs::path& dir, const Words& settings = {}, const std::string& fault = "") const {
    return start(dir, settings, {}, fault).wait();
  }
  Finished resume(const fs::path& dir, const Words& settings = {}, const std::string& fault = "") const {
    return start(dir, settings, {"--resume"}, fault).wait();
  }
  // The undisturbed run.
  Results whole(const Words& settings = {}) const {
    expect_exit(train(scratch_ / "whole", settings), 0);
    const Results results = results_of(scratch_ / "whole");
    EXPECT_GT(results.weights.size(), 100000u);
    return results;
  }
  // Goes on, which is refused only where nothing was saved yet; then the run has to end as the undisturbed one.
  void expect_whole(const fs::path& dir, const Results& whole, const Words& settings = {}) const {
    if (!has_checkpoint(dir)) return expect_refused(resume(dir, settings), 2, {"--resume", "no complete checkpoint"});
    const Finished finished = resume(dir, settings);
    EXPECT_EQ(finished.exit, 0) << finished.err;
    EXPECT_TRUE(results_of(dir) == whole) << dir << ":\n" << results_of(dir).metrics << whole.metrics;
    for (const std::string& name : checkpoints_in(dir)) EXPECT_FALSE(name.ends_with(".tmp")) << name;
    EXPECT_FALSE(fs::exists(dir / "model.tmp"));
    fs::remove_all(dir);
  }
  const Scratch scratch_;
};

TEST_F(Resume, KilledAtEveryCallOfASave) {
  const Results undisturbed = whole();
  const int64_t calls = for_each_call([&](int64_t n) {
    const fs::path dir = scratch_ / ("kill" + std::to_string(n));
    const Finished killed = train(dir, {}, std::to_string(n) + ":kill");
    if (killed.exit == 0) return false;
    EXPECT_EQ(killed.signal, SIGKILL) << killed.err;
    expect_whole(dir, undisturbed);
    return true;
  });
  EXPECT_GT(calls, 200) << "two checkpoints and a model take more calls";
}

TEST_F(Resume, FailedAtEveryCallOfASave) {
  const Results undisturbed = whole();
  for_each_call([&](int64_t n) {
    const fs::path dir = scratch_ / ("fail" + std::to_string(n));
    const Finished failed = train(dir, {}, std::to_string(n) + ":EIO");
    if (failed.exit == 0) return false;
    expect_refused(failed, 3, {dir.string(), "Input/output error"});
    expect_whole(dir, undisturbed);
    return true;
  });
}

TEST_F(Resume, KilledAtRandomInstantsAgainAndAgain) {
  const Words longer{"train.steps=24", "train.save_every=3", "train.keep=2"};
  const Results undisturbed = whole(longer);
  for (uint64_t instant = 0; instant < 20; ++instant) {
    const fs::path dir = scratch_ / "random";
    fs::remove_all(dir);
    for (uint64_t attempt = 0; attempt < 3; ++attempt) {
      if (!has_checkpoint(dir)) fs::remove_all(dir);
      Child child = start(dir, longer, has_checkpoint(dir) ? Words{"--resume"} : Words{});
      usleep(philox(7, instant, attempt)[0] % 150000);
      child.send(SIGKILL), child.wait();
    }
    expect_whole(dir, undisturbed, longer);
  }
}

// The rounded weights come back from the master; dropped choices and recomputed layers hold no state between steps.
TEST_F(Resume, InBf16WithDroppedChoicesAndRecomputedLayers) {
  Words settings{"train.dtype=bf16", "moe.capacity=1", "moe.z=0.001", "train.lr=0.01"};
  const Results undisturbed = whole(settings);
  settings.push_back("train.recompute=true");
  for (const int64_t n : {130, 160, 190, 210}) {
    const fs::path dir = scratch_ / "bf16";
    EXPECT_EQ(train(dir, settings, std::to_string(n) + ":kill").signal, SIGKILL);
    EXPECT_TRUE(has_checkpoint(dir));
    settings.back() = n % 20 == 0 ? "train.recompute=true" : "train.recompute=false";
    expect_whole(dir, undisturbed, settings);
  }
}

TEST_F(Resume, SignalsFinishTheStepAndSave) {
  const Words longer{"train.steps=40", "train.save_every=0"};
  const Results undisturbed = whole(longer);
  for (const int signal : {SIGTERM, SIGINT}) {
    const fs::path dir = scratch_ / "stopped";
    Child child = start(dir, longer);
    while (slurp(dir / "metrics.jsonl").empty()) usleep(500);
    child.send(signal);
    const Finished finished = child.wait();
    EXPECT_EQ(finished.exit, 0) << finished.err;
    EXPECT_TRUE(finished.out.starts_with("stopped after step ")) << finished.out;
    EXPECT_EQ(std::count(finished.out.begin(), finished.out.end(), '\n'), 1) << finished.out;
    EXPECT_FALSE(fs::exists(dir / "model"));
    const std::string step = finished.out.substr(19, finished.out.find(' ', 19) - 19);
    EXPECT_EQ(checkpoints_in(dir), Words{"step-" + step});
    EXPECT_NE(slurp(dir / "metrics.jsonl").find("\"step\": " + step + ","), std::string::npos);
    expect_whole(dir, undisturbed, longer);
  }
}

TEST_F(Resume, ASecondInterruptKillsAtOnce) {
  Finished finished;
  for (int attempt = 0; attempt < 5 && finished.signal == 0; ++attempt) {  // again where it stopped between two steps
    const fs::path dir = scratch_ / ("killed" + std::to_string(attempt));
    Child child = start(dir, {"train.tokens_per_step=65536"});
    while (slurp(dir / "metrics.jsonl").empty()) usleep(500);
    for (int i = 0; i < 2; ++i) child.send(SIGINT), usleep(20000);
    finished = child.wait();
  }
  EXPECT_EQ(finished.signal, SIGINT) << finished.out << finished.err;
}

TEST_F(Resume, AfterTheLastStepOnlyWhatIsMissingIsDone) {
  const Results undisturbed = whole();
  const fs::path dir = scratch_ / "whole";
  const std::string metrics = slurp(dir / "metrics.jsonl");
  expect_exit(resume(dir), 0);
  EXPECT_EQ(slurp(dir / "metrics.jsonl"), metrics);
  fs::remove_all(dir / "model");
  spill(dir / "metrics.jsonl", metrics + "{\"step\": 9, \"loss\": 1}\n{\"ste");
  spill(dir / "notes.tmp", "not ours");
  expect_exit(resume(dir), 0);
  EXPECT_EQ(slurp(dir / "metrics.jsonl"), metrics);
  EXPECT_TRUE(results_of(dir) == undisturbed);
  EXPECT_TRUE(fs::exists(dir / "notes.tmp"));
}

// Killed when step 2 of three was saved and step 3 nearly so.
class ResumeFromStep2 : public Resume {
 protected:
  void SetUp() override {
    Resume::SetUp();
    if (IsSkipped()) return;
    undisturbed_ = whole();
    train(dir_, {}, "160:kill");
    ASSERT_EQ(checkpoints_in(dir_), (Words{"step-2", "step-3.tmp"}));
  }
  const fs::path dir_ = scratch_ / "run";
  Results undisturbed_;
};

TEST_F(ResumeFromStep2, KilledAtTheFirstCallsOfGoingOn) {
  for (int64_t n = 1; n <= 16; ++n) {  // leftovers, metrics, run.toml, the next save
    const fs::path dir = scratch_ / ("again" + std::to_string(n));
    fs::copy(dir_, dir, fs::copy_options::recursive);
    EXPECT_EQ(resume(dir, {}, std::to_string(n) + ":kill").signal, SIGKILL);
    expect_whole(dir, undisturbed_);
  }
}

TEST_F(ResumeFromStep2, WhatDecidesNoResultMayChange) {
  const fs::path moved = scratch_ / "moved";
  fs::rename(dir_, moved);
  expect_whole(
      moved, undisturbed_,
      {"train.threads=2", "train.micro_rows=2", "train.save_every=1", "train.keep=7", "train.validate_every=1"});
}

TEST_F(ResumeFromStep2, WhatDecidesResultsMayNotChange) {
  const std::string before = slurp(dir_ / "metrics.jsonl");
  expect_refused(resume(dir_, {"train.lr=0.5"}), 2, {"train.lr is 0.5 (was 0.008)", "step-2"});
  expect_refused(resume(dir_, {"train.steps=4"}), 2, {"train.decay is 3 (was 2)", "train.steps is 4 (was 3)"});
  expect_refused(resume(dir_, {"train.steps=4", "train.decay=2"}), 2, {"train.steps is 4 (was 3)"});
  expect_refused(resume(dir_, {"model.rms_norm_eps=1e-6"}), 2, {"model.rms_norm_eps is 1e-06 (was 1e-05)"});
  expect_refused(resume(dir_, {"data.validation=[]"}), 2, {"data.validation is [] (was "});
  fs::copy("data/tiny/tokenizer", scratch_ / "tokenizer");
  const std::string tokenizer = "data.tokenizer=" + (scratch_ / "tokenizer").string();
  expect_refused(resume(dir_, {tokenizer}), 2, {"data.tokenizer", "data/tiny/tokenizer"});
  expect_refused(train(dir_), 2, {"run.dir", "exists", "--resume"});
  expect_refused(resume(scratch_ / "nowhere"), 2, {"nowhere", "no complete checkpoint"});
  EXPECT_EQ(slurp(dir_ / "metrics.jsonl"), before) << "a refused run is left as it is";
  expect_whole(dir_, undisturbed_);
}

TEST_F(Resume, TextsMayNotChange) {
  const fs::path text = scratch_ / "text.txt";
  const Words settings{"data.train=[\"" + text.string() + "\"]", "data.validation=[\"" + text.string() + "\"]"};
  spill(text, slurp("data/tiny/valid.txt"));
  const Results undisturbed = whole(settings);
  spill(text, replaced(slurp(text), "the", "The"));
  expect_refused(resume(scratch_ / "whole", settings), 2, {"digest", "data.train"});
  spill(text, slurp("data/tiny/valid.txt"));
  expect_whole(scratch_ / "whole", undisturbed, settings);
}

TEST_F(ResumeFromStep2, OneProcessAtATime) {
  expect_whole(dir_, undisturbed_);
  const Words longer{"train.tokens_per_step=1048576"};
  Child child = start(dir_ / "", longer);  // whose output then has a file of its own
  while (!fs::exists(dir_ / "metrics.jsonl")) usleep(500);
  expect_refused(resume(dir_, longer), 2, {"another process"});
  child.send(SIGKILL), child.wait();
}

std::string flipped(std::string bytes, size_t at) {
  bytes[at] = char(bytes[at] ^ 1);
  return bytes;
}

TEST_F(Resume, ADamagedCheckpointIsRefusedAndAnIntactOneNamed) {
  const Words both{"train.keep=2"};
  const Results undisturbed = whole(both);
  const fs::path dir = scratch_ / "whole", newest = dir / "checkpoints/step-3";
  for (const char* name : {"model.safetensors", "first.safetensors", "second.safetensors", "state.json"}) {
    const std::string bytes = slurp(newest / name);
    for (uint64_t i = 0; i < 6; ++i) {
      spill(newest / name, flipped(bytes, philox(3, i, 0)[0] % (bytes.size() - 2)));
      const Finished finished = resume(dir, both);
      if (std::string(name) != "state.json" || finished.exit != 0)
        expect_refused(finished, 3, {name, "step-3 is damaged", "step-2 is intact"});
    }
    spill(newest / name, bytes.substr(0, bytes.size() / 2));
    expect_refused(resume(dir, both), 3, {name, "step-3 is damaged", "step-2 is intact"});
    fs::remove(newest / name);
    expect_refused(resume(dir, both), 3, {name, "step-3 is damaged", "step-2 is intact"});
    spill(newest / name, bytes);
  }
  const fs::path older = dir / "checkpoints/step-2/second.safetensors";
  spill(newest / "state.json", "{}");
  const std::string bytes = slurp(older);
  spill(older, flipped(bytes, bytes.size() / 2));
  expect_refused(resume(dir, both), 3, {"state.json", "no older one is intact"});
  spill(older, bytes);
  fs::remove_all(newest);
  expect_whole(dir, undisturbed, both);
}

TEST_F(Resume, EveryByteOfTheDescriptionCounts) {
  whole();
  const fs::path dir = scratch_ / "whole", file = dir / "checkpoints/step-3/state.json";
  const RunCheckpoint before = open_run_checkpoint(dir);
  const std::string bytes = slurp(file);
  for (size_t at = 0; at < bytes.size(); ++at) {
    spill(file, flipped(bytes, at));
    try {
      const RunCheckpoint after = open_run_checkpoint(dir);
      EXPECT_TRUE(after.step == before.step && after.digests == before.digests &&
                  after.identity.keys == before.identity.keys)
          << "byte " << at;
    } catch (const Error& error) {
      EXPECT_EQ(int(error.kind()), int(ErrorKind::corrupt_file)) << error.what();
    }
  }
}

TEST_F(Resume, AFullOrReadOnlyDiskEndsTheRunInOneLine) {
  const Results undisturbed = whole();
  for (const auto& [effect, why] : {std::pair{"ENOSPC", "No space left on device"}, {"EROFS", "Read-only"}}) {
    const fs::path dir = scratch_ / effect;
    expect_refused(train(dir, {}, std::string("130:") + effect), 3,
                   {why, "saving step 3 failed, step-2 is the newest complete checkpoint"});
    EXPECT_EQ(checkpoints_in(dir), Words{"step-2"});
    expect_whole(dir, undisturbed);
  }
  const fs::path file = scratch_ / "file";
  spill(file, "");
  expect_refused(train(file / "run"), 3, {"file/run", "Not a directory"});
}

// The same on file systems that are full and read-only, where this process may mount one.
TEST_F(Resume, OnASmallFileSystem) {
  const fs::path at = scratch_ / "mounted", out = scratch_ / "kept";
  fs::create_directories(at), fs::create_directories(out);
  const Finished tried =
      Child({"/usr/bin/env", "unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", at}, out / "o").wait();
  if (tried.exit != 0) return;  // the test before has shown the same through the hook
  const auto quoted = [](const Words& words) {
    std::string line;
    for (const std::string& word : words) line += "'" + word + "' ";
    return line;
  };
  const Results undisturbed = whole();
  const std::string run = quoted(arguments(at / "run", {}, {}, "")),
                    again = quoted(arguments(at / "run", {}, {"--resume"}, ""));
  const std::string script =
      "cd " + out.string() + " && mkdir full read_only whole && here=$PWD && mount -t tmpfs -o size=1m tmpfs " +
      at.string() + " && cd " FULGUR_SOURCE " && { " + run +
      "2>$here/full/err; echo $? >$here/full/rc; mount -o remount,ro " + at.string() + "; " + again +
      "2>$here/read_only/err; echo $? >$here/read_only/rc; mount -o remount,rw,size=16m " + at.string() + "; " + again +
      "2>$here/whole/err; echo $? >$here/whole/rc; cp -r " + at.string() + "/run $here/run; }";
  Child({"/usr/bin/env", "unshare", "-m", "sh", "-c", script}, out / "script").wait();
  for (const auto& [name, why] :
       {std::pair{"full", "No space left on device"}, {"read_only", "Read-only file system"}}) {
    EXPECT_EQ(slurp(out / name / "rc"), "3\n");
    expect_refused({.exit = 3, .signal = 0, .out = "", .err = slurp(out / name / "err")}, 3, {why});
  }
  EXPECT_EQ(slurp(out / "whole" / "rc"), "0\n") << slurp(out / "whole" / "err");
  EXPECT_TRUE(results_of(out / "run") == undisturbed);
}

}  // namespace
}  // namespace fulgur::tests
