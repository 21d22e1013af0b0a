// Files of texts as options name them: FILE or NAME=FILE, and the kind that their documents are reported under.
#pragma once
#include <string>
#include <vector>

#include "data/document_stream.h"

namespace fulgur {

struct DataFile {
  std::string name;  // empty where none was given
  std::string path;

  // The name that was given, else the document's own kind, else the file's name without its extension.
  std::string kind_of(const Document& document) const;
};

// NAME=FILE where a name stands before the first `=` and there is no file of the whole argument's name.
DataFile data_file(const std::string& argument);
std::vector<DataFile> data_files(const std::vector<std::string>& arguments);

// For the help of options that take them.
inline constexpr const char* kDataHelp =
    ".txt, divided by lines <|endoftext|>, or .jsonl with `text`; NAME=FILE names what is in it, else the `kind` or "
    "`source` of a line does, else the file";

}  // namespace fulgur
