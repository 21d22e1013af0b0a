// label: slow
// A run on the tests' device: its losses beside the CPU's, and the same bits when it goes on from a checkpoint.
#include <gtest/gtest.h>

#include <cmath>

#include "files/json_file.h"
#include "tests/scratch.h"
#include "tests/test_device.h"
#include "train/trainer.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;

// configs/tiny.toml, small enough for an emulated GPU; lanes are summed, experts drop choices, health is measured.
RunConfig run_config(const fs::path& dir, const std::string& device, const std::vector<std::string>& more = {}) {
  fs::current_path(FULGUR_SOURCE);
  std::vector<std::string> settings{"run.dir=" + dir.string(),
                                    "train.device=" + device,
                                    "train.steps=4",
                                    "train.sequence=64",
                                    "train.tokens_per_step=128",
                                    "train.health_every=2",
                                    "train.save_every=2",
                                    "moe.capacity=1",
                                    "parallel.lanes=2",
                                    "train.micro_rows=1",
                                    "train.threads=1",
                                    "run.tensorboard=false",
                                    "model.hidden_size=32",
                                    "model.num_hidden_layers=2",
                                    "model.attn_type_list=[0, 1]",
                                    "model.intermediate_size=32",
                                    "data.validation=[]"};
  settings.insert(settings.end(), more.begin(), more.end());
  return read_run_config("configs/tiny.toml", settings);
}

std::string device() { return name_of(test_device()); }

class DeviceRun : public testing::TestWithParam<const char*> {
 protected:
  RunConfig config(const fs::path& dir, const std::string& on) const {
    return run_config(dir, on, {"train.dtype=\"" + std::string(GetParam()) + "\""});
  }
  const Scratch scratch_;
};

TEST_P(DeviceRun, losses_are_close_to_the_cpus) {
  const TrainReport here = train(config(scratch_ / "here", device())), cpu = train(config(scratch_ / "cpu", "cpu"));
  ASSERT_EQ(here.losses.size(), cpu.losses.size());
  for (size_t i = 0; i < cpu.losses.size(); ++i) EXPECT_NEAR(here.losses[i], cpu.losses[i], 0.01 * cpu.losses[i]) << i;
}

TEST_P(DeviceRun, goes_on_to_the_same_bits) {
  const TrainReport whole = train(config(scratch_ / "whole", device()));
  const fs::path dir = scratch_ / "parts";
  fs::copy(scratch_ / "whole", dir, fs::copy_options::recursive);
  fs::remove_all(dir / "checkpoints/step-4");
  const TrainReport parts = train(config(dir, device()), {.resume = true, .floor = {}});
  EXPECT_EQ(parts.steps_here, 2);
  EXPECT_EQ(parts.weights_digest, whole.weights_digest);
  EXPECT_EQ(parts.losses, whole.losses);
  for (const char* name : {"model.safetensors", "first.safetensors", "second.safetensors"})
    EXPECT_EQ(slurp(dir / "checkpoints/step-4" / name), slurp(scratch_ / "whole/checkpoints/step-4" / name)) << name;
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceRun, testing::Values("f32", "bf16"),
                         [](const auto& info) { return std::string(info.param); });

TEST(DeviceOfARun, is_what_decides_results_where_it_is_a_gpu) {
  const Scratch scratch;
  const RunConfig cpu = run_config(scratch / "x", "cpu", {"train.steps=1"});
  EXPECT_EQ(cpu.decisive.find("train.device"), cpu.decisive.npos);
  if (!test_device().is_cuda()) return;
  const RunConfig gpu = run_config(scratch / "x", device(), {"train.steps=1"});
  EXPECT_NE(gpu.decisive.find("\"train.device\":\"cuda\""), gpu.decisive.npos) << gpu.decisive;
  train(gpu);
  expect_error(ErrorKind::invalid_input, {"train.device", "cuda"}, [&] { train(cpu, {.resume = true, .floor = {}}); });
}

}  // namespace
}  // namespace fulgur::tests
