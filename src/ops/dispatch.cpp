// Every operator of the engine, on one page.
#include "ops/adamw.h"
#include "ops/blend.h"
#include "ops/combine_experts.h"
#include "ops/cross_entropy.h"
#include "ops/edit_logits.h"
#include "ops/embedding.h"
#include "ops/expert_linear.h"
#include "ops/gated_rms_norm.h"
#include "ops/gradient_norm.h"
#include "ops/group_rows.h"
#include "ops/lightning_attention.h"
#include "ops/linear.h"
#include "ops/load_balance.h"
#include "ops/magnitude.h"
#include "ops/recorded.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/route_experts.h"
#include "ops/router_statistics.h"
#include "ops/router_z_loss.h"
#include "ops/sample.h"
#include "ops/softmax_attention.h"
#include "ops/store_kv.h"
#include "ops/swiglu.h"
#include "ops/take_rows.h"
#include "ops/token_log_probs.h"

namespace fulgur {

FULGUR_DEFINE_OPERATOR(adamw, AdamW)
FULGUR_DEFINE_OPERATOR(blend, Blend)
FULGUR_DEFINE_OPERATOR(combine_experts, CombineExperts)
FULGUR_DEFINE_OPERATOR(combine_experts_backward, CombineExpertsBackward)
FULGUR_DEFINE_OPERATOR(cross_entropy, CrossEntropy)
FULGUR_DEFINE_OPERATOR(edit_logits, EditLogits)
FULGUR_DEFINE_OPERATOR(embedding, Embedding)
FULGUR_DEFINE_OPERATOR(embedding_backward, EmbeddingBackward)
FULGUR_DEFINE_OPERATOR(expert_linear, ExpertLinear)
FULGUR_DEFINE_OPERATOR(expert_linear_backward, ExpertLinearBackward)
FULGUR_DEFINE_OPERATOR(gated_rms_norm, GatedRmsNorm)
FULGUR_DEFINE_OPERATOR(gated_rms_norm_products, GatedRmsNormProducts)
FULGUR_DEFINE_OPERATOR(gated_rms_norm_backward, GatedRmsNormBackward)
FULGUR_DEFINE_OPERATOR(gradient_norm, GradientNorm)
FULGUR_DEFINE_OPERATOR(group_rows, GroupRows)
FULGUR_DEFINE_OPERATOR(lightning_attention, LightningAttention)
FULGUR_DEFINE_OPERATOR(lightning_attention_backward, LightningAttentionBackward)
FULGUR_DEFINE_OPERATOR(linear, Linear)
FULGUR_DEFINE_OPERATOR(linear_backward, LinearBackward)
FULGUR_DEFINE_OPERATOR(load_balance, LoadBalance)
FULGUR_DEFINE_OPERATOR(magnitude, Magnitude)
FULGUR_DEFINE_OPERATOR(rms_norm, RmsNorm)
FULGUR_DEFINE_OPERATOR(rms_norm_backward, RmsNormBackward)
FULGUR_DEFINE_OPERATOR(rotary, Rotary)
FULGUR_DEFINE_OPERATOR(route_experts, RouteExperts)
FULGUR_DEFINE_OPERATOR(route_experts_backward, RouteExpertsBackward)
FULGUR_DEFINE_OPERATOR(router_statistics, RouterStatistics)
FULGUR_DEFINE_OPERATOR(router_z_loss, RouterZLoss)
FULGUR_DEFINE_OPERATOR(sample, Sample)
FULGUR_DEFINE_OPERATOR(softmax_attention, SoftmaxAttention)
FULGUR_DEFINE_OPERATOR(softmax_attention_backward, SoftmaxAttentionBackward)
FULGUR_DEFINE_OPERATOR(store_kv, StoreKv)
FULGUR_DEFINE_OPERATOR(swiglu, Swiglu)
FULGUR_DEFINE_OPERATOR(swiglu_backward, SwigluBackward)
FULGUR_DEFINE_OPERATOR(take_rows, TakeRows)
FULGUR_DEFINE_OPERATOR(take_rows_backward, TakeRowsBackward)
FULGUR_DEFINE_OPERATOR(token_log_probs, TokenLogProbs)

#ifdef FULGUR_CUDA
#include "ops/cuda_missing.txt"
#endif

}  // namespace fulgur
