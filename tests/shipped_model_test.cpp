// label: slow
// The model that comes with the sources: it is whole, small enough, and says what its README shows, on any threads.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

constexpr uint64_t kMostBytes = 20'000'000, kMostShardBytes = 12'000'000;

std::filesystem::path shipped() { return std::filesystem::path(FULGUR_SOURCE) / "models" / "fulgur-small"; }

TEST(ShippedModel, is_small_enough) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(shipped())) {
    if (!entry.is_regular_file()) continue;
    bytes += entry.file_size();
    EXPECT_LE(entry.file_size(), kMostShardBytes) << entry.path();
  }
  EXPECT_LE(bytes, kMostBytes);
}

TEST(ShippedModel, is_whole) {
  const Scratch scratch;
  const std::string sums = "cd '" + shipped().string() + "' && sha256sum --quiet --check SHA256SUMS";
  const Finished checked = Child({"/bin/bash", "-c", sums}, scratch / "sums").wait();
  EXPECT_EQ(checked.exit, 0) << checked.out << checked.err;
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Finished inspected = run_program({"inspect", shipped().string()}, scratch / "inspect");
  expect_exit(inspected, 0);
  EXPECT_NE(inspected.out.find("442 of 442 found"), std::string::npos) << inspected.out;
}

TEST(ShippedModel, says_what_is_written_of_it) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const std::string written = slurp(shipped() / "conversations.txt"), readme = slurp(shipped() / "README.md");
  EXPECT_EQ(std::count(written.begin(), written.end(), '>'), 10);
  EXPECT_NE(readme.find("```\n" + written + "```\n"), std::string::npos) << "README.md shows other conversations";
  for (const std::string threads : {"1", "2"}) {
    const Finished said =
        Child({(shipped() / "recipe" / "converse").string(), program(), shipped().string(), "--threads", threads},
              scratch / "said")
            .wait(600);
    EXPECT_EQ(said.exit, 0) << said.err;
    EXPECT_EQ(said.out, written) << "threads " << threads;
  }
}

}  // namespace
}  // namespace fulgur::tests
