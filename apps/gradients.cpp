// fulgur gradients: the mean next-token loss of some ids and the gradient of every parameter.
#include <cstring>

#include "apps/commands.h"
#include "apps/run_options.h"
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
  const LoadedModel model = load_model(o.run, type);
  const std::vector<std::vector<int32_t>> documents = parse_ids(o.ids, model.config.vocab_size);
  PackedRow row;
  for (const auto& d : documents) append_document(row, d);
  const int64_t rows = int64_t(row.tokens.size()), counted = rows - int64_t(documents.size());
  if (counted < 1)
    fail(ErrorKind::invalid_input, "--ids: expected a document of at least two tokens: there is nothing to predict");

  const ArenaBytes bytes = measured_micro_step(model.config, type, rows);
  const Buffer scratch_memory(bytes.scratch, Purpose::activations), tape_memory(bytes.tape, Purpose::activations);
  Arena scratch(scratch_memory.data(), bytes.scratch, {}), tape(tape_memory.data(), bytes.tape, {});
  Stream stream({}, o.run.thread_count());
  Exec exec{stream, scratch, tape, model.config};
  const LoadedWeights gradients = allocate_weights(model.config, DType::f32);
  ModelWeights grads = gradients.weights;
  double loss = 0;
  const Tensor loss_tensor = contiguous(reinterpret_cast<std::byte*>(&loss), DType::f64, {}, {1});
  const std::vector<PackedRow> micro_rows{row};
  micro_step(exec, model.weights(), grads, micro_batch_of(exec, micro_rows), 1.0 / double(counted), Balance{},
             loss_tensor);

  std::vector<TensorToWrite> list{{"loss", DType::f32, {1}, [loss](std::byte* out) {
                                     const float value = float(loss);
                                     std::memcpy(out, &value, sizeof value);
                                   }}};
  for (const Parameter& p : grads.parameters) {
    std::vector<int64_t> shape;
    for (int axis = 0; axis < p.view.rank; ++axis) shape.push_back(p.view.dim(axis));
    list.push_back({p.checkpoint_name, DType::f32, shape, [&p](std::byte* out) {
                      std::memcpy(out, p.view.data, size_t(p.view.bytes()));
                      to_file_order(p.rows, out, p.view.dim(0), p.view.bytes() / p.view.dim(0));
                    }});
  }
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
