#include "data/documents.h"

#include "data/document_stream.h"

namespace fulgur {

std::vector<std::string> read_documents(const std::filesystem::path& file) {
  DocumentStream stream(file);
  std::vector<std::string> documents;
  for (Document document; stream.next(document);) documents.push_back(std::move(document.text));
  return documents;
}

}  // namespace fulgur
