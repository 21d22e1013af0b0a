// One optimizer step over the global batch.
#pragma once
#include <optional>
#include <span>
#include <string>

#include "model/model.h"
#include "train/health.h"
#include "train/router_report.h"

namespace fulgur {

class MicroGraphs;

struct MicroBatch {
  Batch batch;
  Tensor targets;  // i32 [rows]; -1: the row does not count
};
using Lane = std::span<const MicroBatch>;

// What a step is taken up to.
struct StepBounds {
  double loss, gradient_norm;
};

// The global batch is cut into `parallel.lanes` lanes, a power of two. A lane's micro-batches are summed in order,
// lanes pairwise in one tree, so a step has one result however it is cut into micro-batches.
struct StepInput {
  std::span<const Lane> lanes;
  int64_t counted_rows;  // rows with a target, over all lanes
  Balance balance;       // of the whole step, over all lanes; its sums are the step's own
  double learning_rate, beta1, beta2, eps, weight_decay, max_norm;
  Keep keep;  // what a layer's forward leaves its backward
  std::optional<StepBounds> bounds = {};
  bool health = false;  // measure it
  StateProbe probe = {};
  MicroBatch room = {};  // for the largest micro-batch, where there are graphs (train/micro_batch.h)
};

// Of the step's batch before its update: mean cross-entropy in nats per token, the norm of the gradient, and what the
// routers did. Equal in every bit however the step is cut into micro-batches.
struct StepReport {
  double loss = 0, gradient_norm = 0;
  RouterReport router;
  bool taken = true;                  // false: weights, moments and the count of steps are what they were
  std::optional<Health> health = {};  // where it was asked for
};

// Flat buffers with the offsets of ModelWeights::flat.
struct TrainingState {
  ModelWeights weights;             // what forward reads: the master, rounded to the run type
  Tensor master;                    // wide [elements]; in f32 runs the memory of weights.flat itself
  std::vector<ModelWeights> grads;  // wide; one per level of the lanes' tree, the sum ends in the first
  Tensor first, second;             // wide [elements], the moments
  Tensor not_decayed;               // i64 [ranges, 2]
  int64_t step = 0;                 // steps taken
  // On a GPU: of earlier micro-batches, where nobody records the stream and health is not measured. Null: call by call.
  // Changes no bit.
  MicroGraphs* graphs = nullptr;
};

// After the master was written (initial values, a checkpoint): makes the weights its rounding. Waits.
void round_master(Stream& stream, TrainingState& state);

// Gradient buffers that a number of lanes takes.
int64_t gradient_levels(int64_t lanes);

// The loss or the gradient norm of a step without bounds is not finite; the step has changed no weight.
class Diverged : public Error {
 public:
  Diverged(int64_t step, const StepReport& report, std::string where);
  const std::string& where() const { return where_; }  // the parameter, or else the tensor, that is not finite

 private:
  std::string where_;
};

// A step whose loss or gradient norm is above its bound or not finite is not taken; without bounds, one that is not
// finite throws Diverged.
StepReport train_step(Exec& exec, TrainingState& state, const StepInput& input);

// Forward, loss and backward of one micro-batch; grads, loss (f64 [1]), the routers' sums and health are accumulated.
// loss_scale: f64 [1].
void micro_step(Exec& exec, const ModelWeights& weights, ModelWeights& grads, const MicroBatch& micro,
                Tensor loss_scale, const Balance& balance, Tensor loss, Keep keep = Keep::everything,
                HealthSums* health = nullptr);

}  // namespace fulgur
