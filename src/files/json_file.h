// JSON and text from disk, judged: what is no JSON object is corrupt_file under the file's name.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace fulgur {

// The whole file. Throws not_found where there is no readable regular file.
std::string read_text(const std::filesystem::path& path);

// One JSON value, the keys of its objects in the text's order, none twice. Throws corrupt_file with the byte where it
// ends to be JSON.
nlohmann::ordered_json parse_json(std::string_view text, const std::string& origin);
// The same, and it is an object.
nlohmann::ordered_json parse_object(std::string_view text, const std::string& origin);

// The text of an object with the value of one of its top-level keys replaced and every other byte kept; unchanged where
// there is no such key. The text has passed parse_object.
std::string with_value(std::string_view text, std::string_view key, std::string_view value);

// A name or value from a file, fit for one line of a message: in quotes, control and non-ASCII bytes escaped, cut when
// long.
std::string in_quotes(std::string_view text);

}  // namespace fulgur
