#include "apps/data_files.h"

#include <filesystem>

namespace fulgur {

std::string DataFile::kind_of(const Document& document) const {
  if (!name.empty()) return name;
  return document.kind.empty() ? std::filesystem::path(path).stem().string() : document.kind;
}

DataFile data_file(const std::string& argument) {
  const size_t equals = argument.find('=');
  const bool is_named = equals != 0 && equals != std::string::npos && argument.find('/') > equals;
  if (!is_named || std::filesystem::exists(argument)) return {"", argument};
  return {argument.substr(0, equals), argument.substr(equals + 1)};
}

std::vector<DataFile> data_files(const std::vector<std::string>& arguments) {
  std::vector<DataFile> files;
  for (const std::string& argument : arguments) files.push_back(data_file(argument));
  return files;
}

}  // namespace fulgur
