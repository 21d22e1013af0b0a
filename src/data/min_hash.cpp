#include "data/min_hash.h"

#include <algorithm>
#include <cmath>

#include "data/shingles.h"

namespace fulgur {
namespace {

constexpr uint32_t kEmpty = UINT32_MAX;
constexpr double kCandidates = 0.99, kDeviations = 2;

double recall(double jaccard, int bands, int rows) { return 1 - std::pow(1 - std::pow(jaccard, rows), bands); }

}  // namespace

// Fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): a round throws every element into one bin, which keeps
// its least value; further rounds, with other hashes, fill only the bins that are still empty. Two sets agree in a bin
// with probability J whichever round decides it, so short texts are judged as truly as long ones, and a long one costs
// one hash for each element. After `hashes` rounds each empty bin takes all elements.
std::vector<uint32_t> min_hashes(std::span<const uint64_t> set, int hashes, uint64_t seed) {
  std::vector<uint32_t> least(size_t(hashes), kEmpty);
  std::vector<uint8_t> open(size_t(hashes), 1);
  const uint64_t first = mixed(seed ^ 0x6d696e68617368);
  for (int round = 0, left = hashes; left > 0; ++round) {
    const uint64_t key = first + uint64_t(round) * 0x9e3779b97f4a7c15;
    const int own = round - hashes;  // the bin that takes all, in the late rounds
    for (const uint64_t element : set) {
      const uint64_t hash = mixed(element ^ key);
      const size_t bin = own < 0 ? size_t((hash >> 32) * uint64_t(hashes) >> 32) : size_t(own);
      if (open[bin]) least[bin] = std::min(least[bin], std::min(uint32_t(hash), kEmpty - 1));
    }
    left = 0;
    for (size_t bin = 0; bin < least.size(); ++bin) left += open[bin] = least[bin] == kEmpty;
  }
  return least;
}

Banding banding_for(double jaccard, int hashes) {
  int rows = 1;
  while (rows < hashes && recall(jaccard, hashes / (rows + 1), rows + 1) >= kCandidates) ++rows;
  const double margin = kDeviations * std::sqrt(jaccard * (1 - jaccard) / hashes);
  const int matches = int(std::ceil((jaccard - margin) * hashes));
  return {hashes / rows, rows, std::max(matches, 1)};
}

}  // namespace fulgur
