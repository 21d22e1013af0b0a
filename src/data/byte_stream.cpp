#include "data/byte_stream.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <string>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr size_t kPiece = 1 << 20;

}  // namespace

ByteStream::ByteStream(const std::filesystem::path& file)
    : file_(file),
      descriptor_(open(file.c_str(), O_RDONLY | O_CLOEXEC)),
      raw_(new char[kPiece]),
      zstd_(nullptr, ZSTD_freeDCtx) {
  if (descriptor_ < 0) fail(ErrorKind::not_found, file.string() + ": cannot be read: " + std::strerror(errno));
  if (file.extension() == ".zst") plain_.reset(new char[kPiece]), zstd_.reset(ZSTD_createDCtx());
}

ByteStream::~ByteStream() { close(descriptor_); }

std::string_view ByteStream::read_file() {
  ssize_t got;
  do got = ::read(descriptor_, raw_.get(), kPiece);
  while (got < 0 && errno == EINTR);
  if (got < 0) fail(ErrorKind::not_found, file_.string() + ": cannot be read: " + std::strerror(errno));
  const std::string_view piece(raw_.get(), size_t(got));
  digest_.add(std::as_bytes(std::span(piece)));
  bytes_read_ += int64_t(piece.size());
  return piece;
}

std::string_view ByteStream::next() {
  if (!zstd_) return read_file();
  while (true) {
    if (compressed_.empty()) compressed_ = read_file();
    if (compressed_.empty()) {
      if (within_frame_) fail(ErrorKind::corrupt_file, file_.string() + ": ends in the middle of compressed data");
      return {};
    }
    ZSTD_inBuffer in{compressed_.data(), compressed_.size(), 0};
    ZSTD_outBuffer out{plain_.get(), kPiece, 0};
    const size_t left = ZSTD_decompressStream(zstd_.get(), &out, &in);
    if (ZSTD_isError(left))
      fail(ErrorKind::corrupt_file, file_.string() + ": no valid zstd data near byte " + std::to_string(bytes_read_) +
                                        ": " + ZSTD_getErrorName(left));
    compressed_.remove_prefix(in.pos), within_frame_ = left != 0;
    if (out.pos > 0) return {plain_.get(), out.pos};
  }
}

}  // namespace fulgur
