// Turns a run-time element type into a compile-time one, for the closed list that an operator names:
//   with_element_type<double, float>(op.x.dtype, [&]<class T>() { ... });
#pragma once
#include <string>

#include "base/tensor.h"

namespace fulgur {

template <class... Elements, class Body>
void with_element_type(DType dtype, Body&& body) {
  const bool handled = ((dtype == dtype_of<Elements> && (body.template operator()<Elements>(), true)) || ...);
  if (!handled)
    fail(ErrorKind::unsupported, std::string("an operator has no kernel for element type ") + name_of(dtype));
}

}  // namespace fulgur
