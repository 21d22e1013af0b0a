// fulgur doctor: what this machine and this build have, and whether they compute what they should.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/machine.h"
#include "apps/run_options.h"
#include "base/progress.h"
#include "bench/machine.h"
#include "bench/product_rates.h"
#include "device/buffer.h"
#include "device/cuda_calls.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/gemm_tiles.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kRateSeconds = 0.1;
constexpr int64_t kRows = 37, kColumns = 53, kDepthOfTest = 300;  // ragged in every direction

std::vector<float> numbers(int64_t count, int64_t step) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(float(i * step % 1009) / 504.5f - 1);
  return values;
}

// f32: the picked kernel's bits are those of plain loops.
bool f32_product_is_right() {
  const std::vector<float> a = numbers(kRows * kDepthOfTest, 7919), b = numbers(kDepthOfTest * kColumns, 104729);
  std::vector<float> picked(size_t(kRows * kColumns)), plain = picked;
  cpu::Product<float> product{.c = {picked.data(), kColumns, 1},
                              .a = {a.data(), kDepthOfTest, 1},
                              .b = {b.data(), kColumns, 1},
                              .m = kRows,
                              .n = kColumns,
                              .k = kDepthOfTest};
  cpu::gemm_serial(product);
  product.c.data = plain.data();
  cpu::multiply_tile(cpu::gemm_kernels(cpu::Isa::generic)->f32, product);
  return std::equal(picked.begin(), picked.end(), plain.begin());
}

// bf16: within rounding of f64 sums.
bool bf16_product_is_right() {
  std::vector<bf16> a, b;
  for (const float x : numbers(kRows * kDepthOfTest, 7919)) a.emplace_back(x);
  for (const float x : numbers(kDepthOfTest * kColumns, 104729)) b.emplace_back(x);
  std::vector<float> c(size_t(kRows * kColumns));
  cpu::gemm_serial({.c = {c.data(), DType::f32, kColumns},
                    .a = {a.data(), DType::bf16, kDepthOfTest, 1},
                    .b = {b.data(), DType::bf16, kColumns, 1},
                    .m = kRows,
                    .n = kColumns,
                    .k = kDepthOfTest});
  double gap = 0, size = 0;
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < kColumns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < kDepthOfTest; ++k)
        sum += double(float(a[size_t(i * kDepthOfTest + k)])) * double(float(b[size_t(k * kColumns + j)]));
      const double d = double(c[size_t(i * kColumns + j)]) - sum;
      gap += d * d, size += sum * sum;
    }
  return std::sqrt(gap / size) <= 1e-5;
}

// What `fulgur signature` prints with FULGUR_ISA as given; empty where it fails.
std::vector<std::string> signature_with(const std::string& isa) {
  std::error_code error;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  const std::string command = "FULGUR_ISA=" + isa + " exec '" + program + "' signature 2>&1";
  std::vector<std::string> lines;
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (!pipe) return lines;
  for (char line[128]; std::fgets(line, int(sizeof line), pipe);) {
    lines.emplace_back(line);
    while (!lines.back().empty() && lines.back().back() == '\n') lines.back().pop_back();
  }
  if (pclose(pipe) != 0) lines.clear();
  return lines;
}

struct SelfTest {
  bool f32_product, bf16_product;
  std::vector<std::string> signature;  // of the picked instruction set: a tiny model's training and generation
  bool same_on_avx2;                   // its f32 line, where both can run

  bool passes() const { return f32_product && bf16_product && same_on_avx2; }
};

SelfTest self_test() {
  SelfTest t{f32_product_is_right(), bf16_product_is_right(), signature_lines(available_cores()), true};
  if (cpu::isa() == cpu::Isa::avx2 || !cpu::has(cpu::Isa::avx2)) return t;
  const std::vector<std::string> avx2 = signature_with("avx2");
  t.same_on_avx2 = !avx2.empty() && avx2.front() == t.signature.front();
  return t;
}

const char* bf16_products() {
  if (cpu::isa() == cpu::Isa::amx) return "amx";
  return cpu::isa() == cpu::Isa::avx512 && cpu::has_avx512_bf16() ? "avx512_bf16" : "widened to f32";
}

Json rates(Threads& threads) {
  try {
    const bench::MemoryRates memory = bench::measured_memory_rates(threads, kRateSeconds);
    bench::ProductRates products(threads, kRateSeconds);
    const auto square = [&](DType type) { return products.peak({1, 1, 1, ProductLayout::nt, type, type, type}); };
    return {{"copy_bytes_per_second", memory.copy},
            {"read_bytes_per_second", memory.read},
            {"f32_flop_per_second", square(DType::f32)},
            {"bf16_flop_per_second", square(DType::bf16)}};
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::out_of_memory) throw;
    return {{"not_measured", error.what()}};
  }
}

Json examined(std::string& gpu_error) {
  Threads threads(available_cores());
  const char* const wish = std::getenv("FULGUR_ISA");
  Json report{{"version", FULGUR_VERSION},
              {"cuda_build", kCudaBuilt},
              {"cuda_architectures", cuda::architectures()},
              {"cpu", {{"model", cpu_model()}, {"cores", available_cores()}, {"features", cpu_features()}}},
              {"isa", cpu::name_of(cpu::isa())},
              {"isa_reason", wish && *wish ? "FULGUR_ISA" : "the best that this CPU has"},
              {"bf16_products", bf16_products()},
              {"default_dtype", name_of(fastest_type())},
              {"memory", {{"total_bytes", total_memory()}, {"free_bytes", available_memory()}}},
              {"rates", rates(threads)}};
  for (const Library& l : libraries()) report["libraries"][l.name] = l.version;
  report["gpus"] = Json::array();
  const std::vector<Gpu> found = gpus(gpu_error);
  for (size_t i = 0; i < found.size(); ++i)
    report["gpus"].push_back(
        {{"name", found[i].name},
         {"memory_bytes", found[i].memory},
         {"compute_capability", std::to_string(found[i].major) + "." + std::to_string(found[i].minor)},
         {"runs_this_build", cuda::runs_kernels({DeviceKind::cuda, uint8_t(i)})}});
  const SelfTest test = self_test();
  report["self_test"] = {{"f32_product", test.f32_product},
                         {"bf16_product", test.bf16_product},
                         {"signature", test.signature},
                         {"same_on_avx2", test.same_on_avx2}};
  report["healthy"] = test.passes() && gpu_error.empty();
  return report;
}

std::string bytes_text(const Json& number) { return short_number(number.get<double>()) + "B"; }

void print_rates(const Json& rates) {
  if (rates.contains("not_measured"))
    return void(std::printf("rates        not measured: %s\n", rates["not_measured"].get<std::string>().c_str()));
  const auto number = [&](const char* key) { return rates[key].get<double>(); };
  std::printf("rates        copy %.1f GB/s, read %.1f GB/s, products f32 %.3f, bf16 %.3f TFLOP/s\n",
              number("copy_bytes_per_second") * 1e-9, number("read_bytes_per_second") * 1e-9,
              number("f32_flop_per_second") * 1e-12, number("bf16_flop_per_second") * 1e-12);
}

void print(const Json& r) {
  const auto text = [](const Json& value) { return value.get<std::string>(); };
  std::string features, list;
  for (const Json& f : r["cpu"]["features"]) features += " " + text(f);
  std::printf("fulgur       %s, %s\n", text(r["version"]).c_str(),
              r["cuda_build"].get<bool>() ? "with CUDA" : "without CUDA");
  std::printf("CPU          %s, %d cores usable;%s\n", text(r["cpu"]["model"]).c_str(), r["cpu"]["cores"].get<int>(),
              features.c_str());
  std::printf("runs on      %s (%s), bf16 products %s; --dtype defaults to %s\n", text(r["isa"]).c_str(),
              text(r["isa_reason"]).c_str(), text(r["bf16_products"]).c_str(), text(r["default_dtype"]).c_str());
  std::printf("memory       %s, %s free\n", bytes_text(r["memory"]["total_bytes"]).c_str(),
              bytes_text(r["memory"]["free_bytes"]).c_str());
  print_rates(r["rates"]);
  for (const auto& [name, version] : r["libraries"].items())
    list += (list.empty() ? "" : ", ") + name + " " + text(version);
  std::printf("libraries    %s\n", list.c_str());
  if (r["cuda_build"].get<bool>())
    std::printf("CUDA         kernels for compute capability %s\n", text(r["cuda_architectures"]).c_str());
  if (r["gpus"].empty()) std::printf("GPUs         none\n");
  for (const Json& g : r["gpus"])
    std::printf(
        "GPU          %s, %s, compute capability %s: %s\n", text(g["name"]).c_str(),
        bytes_text(g["memory_bytes"]).c_str(), text(g["compute_capability"]).c_str(),
        g["runs_this_build"].get<bool>() ? "runs this program's kernels" : "this program has no kernels for it");
  const Json& t = r["self_test"];
  const auto verdict = [&](const char* key) { return t[key].get<bool>() ? "right" : "WRONG"; };
  std::printf("self-test    product f32 %s, bf16 %s\n", verdict("f32_product"), verdict("bf16_product"));
  if (cpu::has(cpu::Isa::avx2))
    std::printf("             f32 on AVX2 %s\n", t["same_on_avx2"].get<bool>() ? "the same" : "DIFFERENT");
  for (const Json& line : t["signature"]) std::printf("signature    %s\n", text(line).c_str());
}

void run_doctor(bool json) {
  std::string gpu_error;
  const Json report = examined(gpu_error);
  if (json) std::printf("%s\n", report.dump().c_str());
  else print(report);
  std::fflush(stdout);
  if (!gpu_error.empty()) fail(ErrorKind::device, gpu_error);
  expect(report["healthy"].get<bool>(), "this machine computes what the self-test expects");
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      app.add_subcommand("doctor", "Says what this machine and build have, and tests that they compute right");
  command->add_flag("--json", *json, "one JSON document");
  command->callback([json] { run_doctor(*json); });
}

}  // namespace fulgur
