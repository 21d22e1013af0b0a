// Scorer: what gives texts the scores from which quality labels are made.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

class Scorer {
 public:
  virtual ~Scorer() = default;

  // Of all that decides the scores: another scorer has another digest.
  virtual std::string digest() const = 0;

  // One number for each text, the same whatever else is asked at once. done(bytes of text) as it goes on.
  virtual std::vector<double> score(std::span<const std::string_view> texts,
                                    const std::function<void(int64_t)>& done) = 0;
};

}  // namespace fulgur
