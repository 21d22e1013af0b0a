// fulgur gradients: the mean next-token loss of some ids and the gradient of every parameter.
#include <cstring>

#include "apps/commands.h"
#include "apps/run_options.h"
#include "device/transfer.h"
#include "model/quantisation.h"
#include "train/micro_batch.h"
#include "train/training_memory.h"

namespace fulgur {
namespace {

struct GradientsOptions {
  RunOptions run;
  std::string ids, out;
};

void run_gradients(const GradientsOptions& o) {
  const DType type = o.run.type(DType::f32);
  refuse_int8_experts(read_config(o.run.model, int64_t(0)), o.run.model, "have no gradients");
  const LoadedModel model = load_model(o.run, type);
  const std::vector<std::vector<int32_t>> documents = parse_ids(o.ids, model.config.vocab_size);
  PackedRow row;
  for (const auto& d : documents) append_document(row, d);
  const int64_t rows = int64_t(row.tokens.size()), counted = rows - int64_t(documents.size());
  if (counted < 1)
    fail(ErrorKind::invalid_input, "--ids: expected a document of at least two tokens: there is nothing to predict");

  const DeviceId device = o.run.where();
  const ArenaBytes bytes = measured_micro_step(model.config, type, rows, device, o.run.in_order());
  const Buffer scratch_memory(bytes.scratch, Purpose::activations, device),
      tape_memory(bytes.tape, Purpose::activations, device);
  Arena scratch(scratch_memory.data(), bytes.scratch, device), tape(tape_memory.data(), bytes.tape, device);
  Stream stream(device, o.run.thread_count());
  Exec exec{stream, scratch, tape, model.config, o.run.in_order()};
  const LoadedWeights gradients = allocate_weights(model.config, DType::f32, device);
  ModelWeights grads = gradients.weights;
  const Tensor loss_tensor = scratch.alloc(DType::f64, {1});
  clear(stream, loss_tensor);
  const Tensor scale = upload(stream, scratch, std::vector<double>{1.0 / double(counted)});
  const std::vector<PackedRow> micro_rows{row};
  micro_step(exec, model.weights(), grads, micro_batch_of(exec, micro_rows), scale, Balance{}, loss_tensor);
  const double loss = download<double>(stream, loss_tensor).front();

  std::vector<TensorToWrite> list{{"loss", DType::f32, {1}, [loss](std::byte* out) {
                                     const float value = float(loss);
                                     std::memcpy(out, &value, sizeof value);
                                   }}};
  for (TensorToWrite& gradient : tensors_of(grads, DType::f32)) list.push_back(std::move(gradient));
  write_safetensors(o.out, list);
  std::printf("loss %.6f over %lld predictions\n", loss, static_cast<long long>(counted));
}

}  // namespace

void add_gradients(CLI::App& app) {
  auto options = std::make_shared<GradientsOptions>();
  CLI::App* command = app.add_subcommand(
      "gradients", "Writes the loss of some ids and every parameter's gradient to a safetensors file");
  options->run.add_to(*command, "f32");
  command->add_option("--ids", options->ids, "file or list: 1,2,3, or JSON; a list of lists is packed documents")
      ->required();
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->callback([options] { run_gradients(*options); });
}

}  // namespace fulgur
