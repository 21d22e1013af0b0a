#include "train/run_checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "files/atomic.h"
#include "files/digest.h"
#include "files/disk.h"
#include "files/json_file.h"
#include "model/checkpoint.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kState = "state.json";
constexpr const char* kTensorFiles[] = {"model.safetensors", "first.safetensors", "second.safetensors"};

fs::path checkpoints_of(const fs::path& run_dir) { return run_dir / "checkpoints"; }

std::string folder_name(int64_t step) { return "step-" + std::to_string(step); }

// The weights' views on another flat buffer of the same offsets.
ModelWeights on_flat(const ModelWeights& weights, Tensor flat) {
  ModelWeights other = weights;
  other.flat = flat;
  for (Parameter& p : other.parameters)
    p.view.data = flat.data + p.offset * byte_size(flat.dtype), p.view.dtype = flat.dtype, p.view.device = flat.device;
  return other;
}

// N of "step-N"; -1 for any other name.
int64_t step_of(const std::string& name) {
  const std::string digits = name.starts_with("step-") ? name.substr(5) : "";
  const bool number = !digits.empty() && digits.size() < 19 && std::all_of(digits.begin(), digits.end(), ::isdigit);
  return number ? std::stoll(digits) : -1;
}

// Names in checkpoints/, none where it cannot be read.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  return names;
}

// Of the complete checkpoints, ascending.
std::vector<int64_t> complete_steps(const fs::path& run_dir) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(checkpoints_of(run_dir)))
    if (step_of(name) >= 0) steps.push_back(step_of(name));
  std::sort(steps.begin(), steps.end());
  return steps;
}

void prune(const fs::path& run_dir, int64_t keep) {
  const std::vector<int64_t> steps = complete_steps(run_dir);
  for (size_t i = 0; i + size_t(keep) < steps.size(); ++i)
    remove_folder(checkpoints_of(run_dir) / folder_name(steps[i]));
}

// state.json with its own digest: xxh3 of the object, printed without spaces and without that entry.
std::string state_text(Json state) {
  const std::string own = digest_of(state.dump());
  state["xxh3"][kState] = own;
  return state.dump(1) + "\n";
}

// What is not finite is null.
Json json_of(const SpikeState& spikes) {
  Json skipped = Json::array();
  for (const SkippedRows& rows : spikes.skipped)
    skipped.push_back({{"begin", rows.begin},
                       {"end", rows.end},
                       {"spikes", rows.spikes},
                       {"step", rows.step},
                       {"loss", rows.loss},
                       {"gradient_norm", rows.gradient_norm}});
  return {{"skipped", skipped}, {"losses", spikes.losses}, {"gradient_norms", spikes.gradient_norms}};
}

SpikeState spikes_of(const Json& state) {
  SpikeState spikes;
  if (!state.contains("spikes")) return spikes;
  const auto number = [](const Json& value) {
    return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
  };
  const Json& from = state["spikes"];
  for (const Json& rows : from.at("skipped"))
    spikes.skipped.push_back({rows.at("begin"), rows.at("end"), rows.at("spikes"), rows.at("step"),
                              number(rows.at("loss")), number(rows.at("gradient_norm"))});
  for (const Json& loss : from.at("losses")) spikes.losses.push_back(loss);
  for (const Json& norm : from.at("gradient_norms")) spikes.gradient_norms.push_back(norm);
  return spikes;
}

RunCheckpoint read_state(const fs::path& folder, int64_t step) {
  const fs::path file = folder / kState;
  Json state = parse_object(read_text(file), file.string());
  try {
    const std::string own = state.at("xxh3").at(kState);
    state["xxh3"].erase(kState);
    if (digest_of(state.dump()) != own)
      fail(ErrorKind::corrupt_file,
           file.string() + ": what it says does not have the xxh3 " + in_quotes(own) + " that it states");
    const Json& digests = state.at("digests");
    RunCheckpoint checkpoint{folder, state.at("step"), {}, state.at("xxh3"), spikes_of(state)};
    checkpoint.identity = {state.at("configuration").dump(), digests.at("tokenizer"), digests.at("data"),
                           digests.at("validation")};
    for (const char* name : kTensorFiles) checkpoint.digests.at(name);
    if (checkpoint.step == step) return checkpoint;
  } catch (const std::out_of_range&) {
  } catch (const Json::exception&) {
  }
  fail(ErrorKind::corrupt_file,
       file.string() + ": is no description of the checkpoint of step " + std::to_string(step));
}

void verify(const RunCheckpoint& checkpoint) {
  for (const char* name : kTensorFiles) {
    const std::string found = digest_of_file(checkpoint.folder / name), stated = checkpoint.digests.at(name);
    if (found != stated)
      fail(ErrorKind::corrupt_file,
           (checkpoint.folder / name).string() + ": its xxh3 is " + found + ", state.json says " + stated);
  }
}

// Step of the newest checkpoint before `step` of which every file is what it was; -1 without any.
int64_t newest_intact(const fs::path& run_dir, int64_t step) {
  std::vector<int64_t> steps = complete_steps(run_dir);
  std::erase_if(steps, [&](int64_t s) { return s >= step; });
  for (; !steps.empty(); steps.pop_back()) {
    try {
      verify(read_state(checkpoints_of(run_dir) / folder_name(steps.back()), steps.back()));
      return steps.back();
    } catch (const Error&) {  // damaged too
    }
  }
  return -1;
}

// Runs body; what it finds missing or damaged is said with the older checkpoint that may be used instead.
template <class Body>
auto judged(const fs::path& run_dir, int64_t step, const Body& body) {
  try {
    return body();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::corrupt_file && error.kind() != ErrorKind::not_found) throw;
    const int64_t older = newest_intact(run_dir, step);
    const std::string name = folder_name(step);
    fail(ErrorKind::corrupt_file,
         std::string(error.what()) + "; the checkpoint " + name + " is damaged, " +
             (older < 0 ? "and no older one is intact"
                        : folder_name(older) + " is intact: remove " + name + " to go on from there"));
  }
}

// "KEY is NOW (was BEFORE), ..." for what differs; empty where nothing does.
std::string changes(const RunIdentity& now, const RunIdentity& before) {
  std::string list;
  const auto compare = [&](const std::string& key, const std::string& value, const std::string& then) {
    if (value != then) list += (list.empty() ? "" : ", ") + key + " is " + value + " (was " + then + ")";
  };
  const Json keys = Json::parse(now.keys), old_keys = Json::parse(before.keys);
  for (const auto& [key, value] : keys.items())
    if (!old_keys.contains(key)) compare(key, value.dump(), "absent");
    else if (old_keys[key] != value) compare(key, value.dump(), old_keys[key].dump());
  for (const auto& [key, value] : old_keys.items())
    if (!keys.contains(key)) compare(key, "absent", value.dump());
  compare("the digest of data.tokenizer", now.tokenizer, before.tokenizer);
  compare("the digest of data.train", now.data, before.data);
  compare("the digest of data.validation", now.validation, before.validation);
  return list;
}

}  // namespace

void save_run_checkpoint(const fs::path& run_dir, const RunConfig& run, const RunIdentity& identity,
                         const ModelWeights& table, const TrainedTensors& tensors, int64_t step,
                         const SpikeState& spikes) {
  disk::make_folder(checkpoints_of(run_dir));
  AtomicFolder folder(checkpoints_of(run_dir) / folder_name(step), Replace::no);
  const Tensor flats[] = {tensors.master, tensors.first, tensors.second};
  Json files;
  for (size_t i = 0; i < std::size(flats); ++i)
    files[kTensorFiles[i]] = save_parameters(folder.path() / kTensorFiles[i], on_flat(table, flats[i]), DType::f32);
  const Json keys = Json::parse(identity.keys);
  Json state{{"step", step},
             {"next_sample", SpikeWatch(run.spike, spikes).row_at(run.rows_through(step))},
             {"seed", run.seed},
             {"pieces", {{"lanes", run.lanes}, {"segments", 1}, {"slices", 1}}},
             {"digests",
              {{"configuration", digest_of(keys.dump())},
               {"tokenizer", identity.tokenizer},
               {"data", identity.data},
               {"validation", identity.validation}}},
             {"xxh3", files},
             {"configuration", keys}};
  if (run.spike.window > 0) state["spikes"] = json_of(spikes);
  write_file(folder.path() / kState, state_text(state));
  folder.commit();
  prune(run_dir, run.keep);
}

int64_t newest_checkpoint(const fs::path& run_dir, int64_t last) {
  std::vector<int64_t> steps = complete_steps(run_dir);
  std::erase_if(steps, [&](int64_t step) { return step > last; });
  return steps.empty() ? -1 : steps.back();
}

RunCheckpoint open_run_checkpoint(const fs::path& run_dir, int64_t last) {
  const int64_t step = newest_checkpoint(run_dir, last);
  if (step < 0)
    fail(ErrorKind::invalid_input,
         "--resume: run.dir " + run_dir.string() + " holds no complete checkpoint; expected checkpoints/step-N in it");
  return judged(run_dir, step, [&] { return read_state(checkpoints_of(run_dir) / folder_name(step), step); });
}

void require_same(const RunCheckpoint& from, const RunIdentity& identity) {
  const std::string list = changes(identity, from.identity);
  if (!list.empty())
    fail(ErrorKind::invalid_input,
         "--resume: " + list + ": what decides results has to be what it was in " + from.folder.string());
}

void load_run_checkpoint(const RunCheckpoint& checkpoint, const ModelWeights& table, const TrainedTensors& tensors) {
  judged(checkpoint.folder.parent_path().parent_path(), checkpoint.step, [&] { return verify(checkpoint); });
  const Tensor flats[] = {tensors.master, tensors.first, tensors.second};
  for (size_t i = 0; i < std::size(flats); ++i)
    load_parameters(checkpoint.folder / kTensorFiles[i], on_flat(table, flats[i]));
}

void remove_checkpoints_after(const fs::path& run_dir, int64_t step) {
  for (int64_t newest; (newest = newest_checkpoint(run_dir)) > step;)
    remove_folder(checkpoints_of(run_dir) / folder_name(newest));
}

void remove_unfinished_checkpoints(const fs::path& run_dir) {
  for (const std::string& name : names_in(checkpoints_of(run_dir)))
    if (name.ends_with(".tmp") && step_of(name.substr(0, name.size() - 4)) >= 0)
      disk::remove(checkpoints_of(run_dir) / name);
}

}  // namespace fulgur
