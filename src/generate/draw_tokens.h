// From a step's logits to its new tokens and the probabilities of known ones.
#pragma once
#include "generate/lay_out.h"

namespace fulgur {

// A token for every drawing row of the shares, in their order, as if all guesses before it were right. May change the
// logits.
std::vector<Sampled> draw_tokens(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor logits,
                                 Tensor suppressed);

// Appends to next_log_probs of the sequences that ask for it. Before the states advance.
void keep_log_probs(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor logits);

// Scratch that draw_tokens takes for `rows` rows of sequences of together `tokens` tokens. In a measuring run.
void measure_draw(Arena& scratch, DType logits, int64_t rows, int64_t tokens, int64_t vocab_size);

}  // namespace fulgur
