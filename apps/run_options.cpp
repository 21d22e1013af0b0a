#include "apps/run_options.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/threads.h"
#include "device/devices.h"
#include "ops/cpu/isa.h"

namespace fulgur {
namespace {

std::vector<int32_t> ids_of(const nlohmann::json& list, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (const nlohmann::json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size)
      fail(ErrorKind::invalid_input,
           "--ids: " + id.dump().substr(0, 40) + ": expected token ids from 0 to " + std::to_string(vocab_size - 1));
    ids.push_back(id.get<int32_t>());
  }
  if (ids.empty()) fail(ErrorKind::invalid_input, "--ids: a document without tokens: expected at least one id");
  return ids;
}

}  // namespace

void RunOptions::add_to(CLI::App& command, const std::string& default_dtype) {
  command.add_option("MODEL", model, "Hugging Face directory")->required();
  add_device_options(command, device, deterministic);
  command.add_option("--dtype", dtype, "f32 or bf16, of weights and activations; default: " + default_dtype);
  command.add_option("--threads", threads, "threads; 0: all cores")->check(CLI::Range(0, 4096))->capture_default_str();
  command.add_option("--rotary-dim", rotary_dim, "rotated dims of each head, where a `minimax` config leaves it open");
}

void add_device_options(CLI::App& command, std::string& device, bool& deterministic) {
  command.add_option("--device", device, "auto, cpu or cuda[:N]; auto: the first GPU that this build has kernels for")
      ->capture_default_str();
  command.add_flag("--deterministic", deterministic,
                   "on a GPU: no sum depends on a prompt's chunks or on the batch; on the CPU none ever does");
}

DeviceId RunOptions::where() const { return device_named("--device", device); }

int RunOptions::thread_count() const { return threads > 0 ? threads : available_cores(); }

DType RunOptions::type(DType fallback) const {
  if (dtype.empty()) return fallback;
  if (dtype == "f32") return DType::f32;
  if (dtype == "bf16") return DType::bf16;
  fail(ErrorKind::invalid_input, "--dtype " + dtype + ": expected f32 or bf16");
}

DType fastest_type(DeviceId device) { return device.is_cuda() || cpu::multiplies_bf16() ? DType::bf16 : DType::f32; }

void add_trace_option(CLI::App& command, std::string& path) {
  command.add_option("--trace", path,
                     "Chrome trace to write of the operators of the third step, or of the last where there are fewer; "
                     "their times and floors go to standard error");
}

LoadedModel load_model(const RunOptions& options, DType run_type) {
  const DeviceId device = options.where();
  LoadedModel model;
  model.config = read_config(options.model, options.rotary_dim ? std::optional(options.rotary_dim) : std::nullopt);
  model.loaded = load_weights(model.config, options.model, run_type, device);
  return model;
}

std::vector<std::vector<int32_t>> parse_ids(const std::string& file_or_list, int64_t vocab_size) {
  std::string text = file_or_list;
  const bool is_list = !text.empty() && text.find_first_not_of("0123456789, []-\n") == std::string::npos;
  if (!is_list) {
    std::ifstream in(file_or_list);
    std::ostringstream whole;
    if (!in || !(whole << in.rdbuf())) fail(ErrorKind::not_found, "--ids " + file_or_list + ": cannot be read");
    text = std::move(whole).str();
  }
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] != '[') text = "[" + text + "]";
  const nlohmann::json list = nlohmann::json::parse(text, nullptr, false);
  if (!list.is_array() || list.empty())
    fail(ErrorKind::invalid_input, "--ids: expected token ids as 1,2,3 or as a JSON list, or list of lists");
  std::vector<std::vector<int32_t>> documents;
  if (!list.front().is_array()) return {ids_of(list, vocab_size)};
  for (const nlohmann::json& document : list) {
    if (!document.is_array()) fail(ErrorKind::invalid_input, "--ids: expected either ids or lists of ids, not both");
    documents.push_back(ids_of(document, vocab_size));
  }
  return documents;
}

}  // namespace fulgur
