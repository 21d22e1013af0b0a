// Documents: the texts of a file, one after another. A .txt is split at lines `<|endoftext|>`, which are not text; each
// line of a .jsonl is an object whose `text` is one document.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace fulgur {

// Empty documents are left out. Throws not_found, corrupt_file with file and line, unsupported for another extension.
std::vector<std::string> read_documents(const std::filesystem::path& file);

}  // namespace fulgur
