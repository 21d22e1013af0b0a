// Gap: the relative distance of results from what they should be, |have - want| / |want| in the Euclidean norm.
#pragma once
#include <cmath>

namespace fulgur::bench {

class Gap {
 public:
  void add(double have, double want) {
    difference_ += (have - want) * (have - want);
    size_ += want * want;
  }
  double relative() const { return std::sqrt(difference_ / size_); }

 private:
  double difference_ = 0, size_ = 0;
};

}  // namespace fulgur::bench
