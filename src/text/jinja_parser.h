// A template's text to its tree.
#pragma once
#include <string_view>

#include "text/jinja_tree.h"

namespace fulgur::jinja {

// Throws SyntaxProblem with the line; a statement that Jinja has and this program has not is named.
Block parse_template(std::string_view source);

}  // namespace fulgur::jinja
