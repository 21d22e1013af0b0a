// ByteStream: the bytes of a file in pieces of bounded size, decompressed where its name ends with .zst.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "files/digest.h"

struct ZSTD_DCtx_s;

namespace fulgur {

class ByteStream {
 public:
  // Throws not_found.
  explicit ByteStream(const std::filesystem::path& file);
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;
  ~ByteStream();

  // The next bytes, which lie there until the next call; empty at the end. Throws corrupt_file where compressed data
  // are damaged or cut off.
  std::string_view next();

  int64_t bytes_read() const { return bytes_read_; }     // of the file
  std::string digest() const { return digest_.text(); }  // of the file's bytes, once next() was empty

 private:
  std::string_view read_file();

  std::filesystem::path file_;
  int descriptor_;
  int64_t bytes_read_ = 0;
  Digest digest_;
  std::unique_ptr<char[]> raw_, plain_;
  std::unique_ptr<ZSTD_DCtx_s, size_t (*)(ZSTD_DCtx_s*)> zstd_;
  std::string_view compressed_;  // what is left of raw_
  bool within_frame_ = false;
};

}  // namespace fulgur
