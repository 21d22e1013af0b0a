// fulgur inspect: what a model folder, or a bare config.json, holds and would take to run.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/grid.h"
#include "files/json_file.h"
#include "model/checkpoint.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string model, dtype;
  int64_t rotary_dim = 0;
  bool json = false;
};

bool lies_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// What the files beside the configuration hold. Shards that are missing hold nothing; where all are, the index speaks.
struct Stored {
  std::vector<std::string> names, misshapen;
  std::map<DType, int64_t> elements;
  bool weights = false;
};

void add_shard(Stored& stored, const ModelConfig& config, const fs::path& file) {
  const Safetensors shard = Safetensors::open(file);
  for (const StoredTensor& t : shard.tensors()) {
    stored.names.push_back(t.name);
    stored.elements[t.dtype] += t.count();
  }
  for (const std::string& name : misshapen(config, shard)) stored.misshapen.push_back(name);
  stored.weights = true;
}

Stored stored_in(const fs::path& folder, const ModelConfig& config) {
  Stored stored;
  if (!lies_there(folder / kIndexFile)) {
    if (lies_there(folder / kModelFile)) add_shard(stored, config, folder / kModelFile);
    return stored;
  }
  const ShardIndex index = read_index(folder / kIndexFile);
  for (const std::string& file : index.files())
    if (lies_there(folder / file)) add_shard(stored, config, folder / file);
  if (!stored.weights)
    for (const auto& [name, file] : index.weight_map) stored.names.push_back(name);
  return stored;
}

DType run_type(const InspectOptions& options, const ModelConfig& config, const Stored& stored) {
  if (options.dtype == "f32") return DType::f32;
  if (options.dtype == "bf16") return DType::bf16;
  DType most = config.stated_type.value_or(DType::bf16);
  int64_t count = 0;
  for (const auto& [type, elements] : stored.elements)
    if (elements > count && is_float(type)) most = type, count = elements;
  return most;
}

const char* group_of(const std::string& name, ParameterKind kind) {
  switch (kind) {
    case ParameterKind::embedding: return "embedding";
    case ParameterKind::head: return "head";
    case ParameterKind::norm: return "norms";
    case ParameterKind::router: return "routers";
    case ParameterKind::scale: return "scales";
    case ParameterKind::matrix: break;
  }
  return name.find(".experts.") != name.npos ? "experts" : "attention";
}

Json parameters_of(const ModelConfig& config) {
  const ParameterCount count = parameter_count(config);
  Json kinds = {{"embedding", 0}, {"attention", 0}, {"routers", 0}, {"experts", 0}, {"norms", 0}, {"head", 0}};
  const ModelWeights names = views_of(config, contiguous(nullptr, DType::f32, {}, {flat_elements(config)}));
  for (const Parameter& p : names.parameters) {
    if (p.kind == ParameterKind::scale) continue;
    Json& kind = kinds[group_of(p.checkpoint_name, p.kind)];
    kind = kind.get<int64_t>() + p.view.count();
  }
  return {{"total", count.total}, {"active", count.active}, {"by_kind", kinds}};
}

// In a run type; int8 experts and their scales have their own.
int64_t weight_bytes(const ModelConfig& config, DType type) {
  const ModelWeights shapes = views_of(config, contiguous(nullptr, type, {}, {flat_elements(config)}));
  int64_t bytes = 0;
  for (const Parameter& p : shapes.parameters) bytes += p.view.bytes();
  return bytes;
}

Json shape_of(const ModelConfig& c) {
  return {{"vocab_size", c.vocab_size},
          {"hidden_size", c.width},
          {"heads", c.heads},
          {"kv_heads", c.kv_heads},
          {"head_dim", c.head_dim},
          {"rotary_dim", c.rotary_dim},
          {"rope_theta", c.rope_theta},
          {"experts", c.experts},
          {"experts_per_token", c.experts_per_token},
          {"expert_width", c.expert_width},
          {"int8_experts", c.int8_experts},
          {"post_norm", c.post_norm},
          {"rms_norm_eps", c.norm_eps},
          {"lightning_norm_eps", c.lightning_norm_eps},
          {"max_positions", c.max_positions},
          {"eos_token_ids", c.eos_token_ids}};
}

Json tokenizer_of(const fs::path& folder) {
  if (lies_there(folder / "tokenizer.json")) return "tokenizer.json";
  if (lies_there(folder / "vocab.json") && lies_there(folder / "merges.txt")) return "vocab.json, merges.txt";
  return nullptr;
}

Json report_of(const InspectOptions& options) {
  const fs::path path = options.model;
  const ModelConfig c = read_config(path, options.rotary_dim ? std::optional(options.rotary_dim) : std::nullopt);
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const Stored stored = stored_in(folder, c);
  const NameGap gap = compare_names(c, stored.names);
  const DType type = run_type(options, c, stored);
  const Json parameters = parameters_of(c);
  const int64_t element = byte_size(type);
  return {
      {"model_type", c.model_type},
      {"config", shape_of(c)},
      {"parameters", parameters},
      {"layers", {{"lightning", c.lightning_layers()}, {"softmax", c.softmax_layers()}}},
      {"dtype", name_of(type)},
      {"weight_bytes", weight_bytes(c, type)},
      {"kv_bytes_per_token", c.softmax_layers() * 2 * c.kv_heads * c.head_dim * element},
      {"state_bytes_per_sequence", c.lightning_layers() * c.heads * c.head_dim * c.head_dim * byte_size(wide(type))},
      {"tail_bytes_per_sequence", c.lightning_layers() * c.heads * 2 * kGrid * c.head_dim * element},
      {"tensors",
       {{"expected", gap.found + int64_t(gap.missing.size())},
        {"found", gap.found},
        {"missing", gap.missing},
        {"unexpected", gap.unexpected},
        {"misshapen", stored.misshapen}}},
      {"weights_present", stored.weights},
      {"tokenizer", tokenizer_of(folder)}};
}

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

void print_names(const char* what, const Json& names) {
  constexpr size_t kShown = 10;
  if (names.empty()) return;
  std::printf("  %zu %s:\n", names.size(), what);
  for (size_t i = 0; i < names.size() && i < kShown; ++i)
    std::printf("    %s\n", in_quotes(names[i].get<std::string>()).c_str());
  if (names.size() > kShown) std::printf("    ... (--json lists all)\n");
}

void print_text(const Json& r) {
  std::printf("model_type            %s\n", in_quotes(r["model_type"].get<std::string>()).c_str());
  for (const auto& [key, value] : r["config"].items()) std::printf("%-21s %s\n", key.c_str(), value.dump().c_str());
  std::printf("layers                %s lightning, %s softmax\n", r["layers"]["lightning"].dump().c_str(),
              r["layers"]["softmax"].dump().c_str());
  std::printf("parameters            %s, of which %s are active for a token\n",
              grouped(r["parameters"]["total"]).c_str(), grouped(r["parameters"]["active"]).c_str());
  for (const auto& [kind, count] : r["parameters"]["by_kind"].items())
    std::printf("  %-19s %s\n", kind.c_str(), grouped(count).c_str());
  std::printf("in %-18s weights %s bytes, KV %s bytes a token, state %s + tail %s bytes a sequence\n",
              r["dtype"].get<std::string>().c_str(), grouped(r["weight_bytes"]).c_str(),
              grouped(r["kv_bytes_per_token"]).c_str(), grouped(r["state_bytes_per_sequence"]).c_str(),
              grouped(r["tail_bytes_per_sequence"]).c_str());
  const Json& tensors = r["tensors"];
  std::printf("tensors               %s of %s found%s\n", grouped(tensors["found"]).c_str(),
              grouped(tensors["expected"]).c_str(), r["weights_present"].get<bool>() ? "" : " (no weights here)");
  for (const char* what : {"missing", "unexpected", "misshapen"}) print_names(what, tensors[what]);
  std::printf("tokenizer             %s\n",
              r["tokenizer"].is_null() ? "none" : r["tokenizer"].get<std::string>().c_str());
}

void run_inspect(const InspectOptions& options) {
  const Json report = report_of(options);
  if (options.json) std::printf("%s\n", report.dump(1, ' ', true).c_str());
  else print_text(report);
}

}  // namespace

void add_inspect(CLI::App& app) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Shows a model's configuration, size, tensors and memory");
  command->add_option("MODEL", options->model, "Hugging Face directory, or its config.json")->required();
  command->add_flag("--json", options->json, "print one JSON document");
  command->add_option("--dtype", options->dtype, "run type that bytes are counted in: f32 or bf16; default: the file's")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command
      ->add_option("--rotary-dim", options->rotary_dim,
                   "rotated dims of each head, where a `minimax` config leaves it open")
      ->check(CLI::Range(int64_t(2), int64_t(1024)));
  command->callback([options] { run_inspect(*options); });
}

}  // namespace fulgur
