#include "generate/decode_graphs.h"

namespace fulgur {
namespace {

ModelOutput run_calls(Exec& exec, const ModelWeights& weights, const Batch& batch) {
  const Tensor hidden = forward(exec, weights, batch);
  return {hidden, head_logits(exec, weights, hidden)};
}

}  // namespace

ModelOutput DecodeGraphs::run(Exec& exec, const ModelWeights& weights, const Batch& batch) {
  const size_t begin = exec.scratch.used_bytes();
  const Shape shape{batch.rows(), batch.outputs(), batch.page_table.dim(1), begin};
  const Step step = steps_.run(exec.stream, shape, [&] {
    const Arena::Scope taken(exec.scratch);
    const ModelOutput output = run_calls(exec, weights, batch);
    return Step{output, exec.scratch.used_bytes() - begin};
  });
  exec.scratch.alloc(DType::u8, {int64_t(step.bytes)});  // as the calls left it
  return step.output;
}

ModelOutput run_model(Exec& exec, const ModelWeights& weights, const Batch& batch, DecodeGraphs* graphs) {
  const bool alike = batch.longest == 1 && batch.routing == Batch::Routing::own && batch.head_rows.dim(0) > 0;
  if (graphs && alike && !exec.stream.recorder()) return graphs->run(exec, weights, batch);
  return run_calls(exec, weights, batch);
}

}  // namespace fulgur
