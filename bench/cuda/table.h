// The CUDA bench's table, printed from its document.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace fulgur::bench {

// A line a figure: its time beside the floor's two terms, and what peers took. Throws invalid_input where a key is
// missing.
std::string table_of(const nlohmann::ordered_json& document);

}  // namespace fulgur::bench
