#include "bench/cuda/routing.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace fulgur::bench {
namespace {

constexpr uint64_t kSeed = 5;
constexpr int64_t kChoices = 2;

double uniform(uint64_t stream, int64_t i, int64_t j) {
  return unit_interval(philox(kSeed, uint64_t(i), (stream << 32) + uint64_t(j))[0]);
}

// The noise that makes the highest of several a draw by their exponentials (Gumbel's).
double noise(int64_t row, int64_t expert) { return -std::log(-std::log(uniform(1, row, expert))); }

}  // namespace

Routing draw_routing(int64_t rows, int64_t experts) {
  std::vector<int64_t> chosen;  // [rows, 2]
  std::vector<int64_t> next(size_t(experts) + 1, 0);
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<std::pair<double, int64_t>> scores;
    for (int64_t e = 0; e < experts; ++e) scores.push_back({noise(row, e) + uniform(2, e, 0), e});
    std::partial_sort(scores.begin(), scores.begin() + kChoices, scores.end(), std::greater<>());
    for (int64_t slot = 0; slot < kChoices; ++slot)
      chosen.push_back(scores[size_t(slot)].second), ++next[size_t(scores[size_t(slot)].second) + 1];
  }
  for (size_t e = 0; e < size_t(experts); ++e) next[e + 1] += next[e];
  Routing routing{.place = std::vector<int32_t>(chosen.size()),
                  .taken = std::vector<int32_t>(chosen.size()),
                  .begin = std::vector<int32_t>(next.begin(), next.end())};
  for (size_t choice = 0; choice < chosen.size(); ++choice) {
    const int64_t at = next[size_t(chosen[choice])]++;
    routing.place[choice] = int32_t(at), routing.taken[size_t(at)] = int32_t(int64_t(choice) / kChoices);
  }
  return routing;
}

std::vector<int32_t> draw_tokens(int64_t rows, int64_t vocabulary) {
  std::vector<double> up_to;  // sums of frequencies
  double sum = 0;
  for (int64_t token = 0; token < vocabulary; ++token) up_to.push_back(sum += 1 / double(1 + token));
  std::vector<int32_t> tokens;
  for (int64_t row = 0; row < rows; ++row)
    tokens.push_back(int32_t(std::lower_bound(up_to.begin(), up_to.end(), sum * uniform(3, row, 0)) - up_to.begin()));
  return tokens;
}

}  // namespace fulgur::bench
