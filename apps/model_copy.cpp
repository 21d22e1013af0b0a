#include "apps/model_copy.h"

namespace fulgur {

namespace fs = std::filesystem;

void copy_other_files(const fs::path& from, const fs::path& to) try {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    const bool weights = name.starts_with("model") && (name.ends_with(".safetensors") || name == kIndexFile);
    if (entry.is_regular_file() && name != "config.json" && !weights) fs::copy_file(entry.path(), to / name);
  }
} catch (const fs::filesystem_error& error) {
  fail(ErrorKind::not_found, error.path1().string() + ": cannot be copied: " + error.code().message());
}

}  // namespace fulgur
