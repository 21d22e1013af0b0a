#include "train/run_checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "files/atomic.h"
#include "files/digest.h"
#include "model/checkpoint.h"

namespace fulgur {
namespace {

// The weights' views on another flat buffer of the same offsets.
ModelWeights on_flat(const ModelWeights& weights, Tensor flat) {
  ModelWeights other = weights;
  other.flat = flat;
  for (Parameter& p : other.parameters)
    p.view.data = flat.data + p.offset * byte_size(flat.dtype), p.view.dtype = flat.dtype;
  return other;
}

// Removes complete checkpoints beyond the newest `keep`.
void prune(const std::filesystem::path& folder, int64_t keep) {
  std::vector<std::pair<int64_t, std::filesystem::path>> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string(), digits = name.substr(std::min<size_t>(5, name.size()));
    if (name.starts_with("step-") && !digits.empty() && std::all_of(digits.begin(), digits.end(), ::isdigit))
      found.emplace_back(std::stoll(digits), entry.path());
  }
  std::sort(found.begin(), found.end());
  for (size_t i = 0; i + size_t(keep) < found.size(); ++i) std::filesystem::remove_all(found[i].second);
}

}  // namespace

void save_run_checkpoint(const std::filesystem::path& run_dir, const RunConfig& run, const TrainingState& state,
                         const RunDigests& digests) {
  const std::filesystem::path all = run_dir / "checkpoints";
  std::filesystem::create_directories(all);
  AtomicFolder folder(all / ("step-" + std::to_string(state.step)), Replace::no);
  const std::pair<const char*, Tensor> parts[] = {
      {"model.safetensors", state.master}, {"first.safetensors", state.first}, {"second.safetensors", state.second}};
  nlohmann::ordered_json files;
  for (const auto& [name, flat] : parts) {
    save_parameters(folder.path() / name, on_flat(state.weights, flat), DType::f32);
    files[name] = digest_of_file(folder.path() / name);
  }
  const nlohmann::ordered_json description{
      {"step", state.step},
      {"next_sample", state.step * run.rows_per_step()},
      {"seed", run.seed},
      {"pieces", {{"lanes", run.lanes}, {"segments", 1}, {"slices", 1}}},
      {"digests", {{"configuration", digests.configuration}, {"tokenizer", digests.tokenizer}, {"data", digests.data}}},
      {"xxh3", files}};
  write_file(folder.path() / "state.json", description.dump(1) + "\n");
  folder.commit();
  prune(all, run.keep);
}

}  // namespace fulgur
