// Python's two ways to format: `'%s' % value` and `'{}'.format(value)`.
#pragma once
#include "text/jinja_value.h"

namespace fulgur::jinja {

// format % arguments; a tuple holds several, a dict those that %(name)s names.
Value percent_format(const Value& format, const Value& arguments);
// format.format(arguments), a method of str.
Value text_format(const Value& format, const Arguments& arguments);

}  // namespace fulgur::jinja
