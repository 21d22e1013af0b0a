#include "train/event_file.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <ctime>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr const char* kPrefix = "events.out.tfevents.";

// CRC-32C (Castagnoli), reflected.
constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    table[byte] = crc;
  }
  return table;
}();

// As records carry it: rotated and shifted, so that the sum of a record that holds sums is no special one.
uint32_t masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ uint8_t(byte)) & 0xff];
  return std::rotr(~crc, 15) + 0xa282ead8u;
}

template <class T>
void append_bytes(std::string& to, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);  // little-endian, as all machines that we build for
  to.append(bytes, sizeof bytes);
}

// The wire format of protocol buffers: a key of field number and type, then the value.
enum class Wire : uint8_t { varint = 0, f64 = 1, bytes = 2, f32 = 5 };

void append_varint(std::string& to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) to += char(value | 0x80);
  to += char(value);
}
void append_key(std::string& to, int field, Wire wire) { append_varint(to, uint64_t(field) << 3 | uint64_t(wire)); }
void append_field(std::string& to, int field, std::string_view bytes) {
  append_key(to, field, Wire::bytes);
  append_varint(to, bytes.size());
  to += bytes;
}
void append_field(std::string& to, int field, double value) {
  append_key(to, field, Wire::f64), append_bytes(to, value);
}
void append_field(std::string& to, int field, float value) {
  append_key(to, field, Wire::f32), append_bytes(to, value);
}
void append_field(std::string& to, int field, uint64_t value) {
  append_key(to, field, Wire::varint), append_varint(to, value);
}

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
std::string event_of(double time, int64_t step) {
  std::string event;
  append_field(event, 1, time), append_field(event, 2, uint64_t(step));
  return event;
}

// Summary.Value { string tag = 1; float simple_value = 2; TensorProto tensor = 8; SummaryMetadata metadata = 9; } with
// TensorProto { DataType dtype = 1; TensorShapeProto tensor_shape = 2; repeated bytes string_val = 8; }
// TensorShapeProto { repeated Dim { int64 size = 1; } dim = 2; }
// SummaryMetadata { PluginData { string plugin_name = 1; } plugin_data = 1; DataClass data_class = 4; }
std::string text_value(const std::string& tag, const std::string& text) {
  constexpr uint64_t kString = 7, kTensorClass = 2;
  std::string dim, shape, tensor, plugin, metadata, value;
  append_field(dim, 1, uint64_t(1)), append_field(shape, 2, dim);
  append_field(tensor, 1, kString), append_field(tensor, 2, shape), append_field(tensor, 8, text);
  append_field(plugin, 1, std::string_view("text"));
  append_field(metadata, 1, plugin), append_field(metadata, 4, kTensorClass);
  append_field(value, 1, tag), append_field(value, 8, tensor), append_field(value, 9, metadata);
  return value;
}

}  // namespace

std::string tag_of(const std::string& figure) {
  size_t digits = figure.size();
  while (digits > 0 && figure[digits - 1] >= '0' && figure[digits - 1] <= '9') --digits;
  const bool numbered = digits > 1 && digits < figure.size() && figure[digits - 1] == '_';
  return numbered ? figure.substr(0, digits - 1) + "/" + figure.substr(digits) : figure;
}

EventFile::EventFile(const std::filesystem::path& folder) {
  const std::time_t now = std::time(nullptr);
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().filename().string().starts_with(kPrefix)) std::filesystem::remove(entry.path());
  path_ = folder / (kPrefix + std::to_string(now) + ".fulgur");
  file_ = std::fopen(path_.c_str(), "wb");
  if (!file_) fail(ErrorKind::not_found, path_.string() + ": cannot be written");
  std::string event = event_of(double(now), 0);
  append_field(event, 3, std::string_view("brain.Event:2"));
  write(event);
}

EventFile::~EventFile() { std::fclose(file_); }

void EventFile::scalars(int64_t step, double time, const std::vector<std::pair<std::string, double>>& figures) {
  std::string summary;
  for (const auto& [figure, number] : figures) {
    if (!std::isfinite(number)) continue;
    std::string value;
    append_field(value, 1, tag_of(figure)), append_field(value, 2, float(number));
    append_field(summary, 1, value);
  }
  std::string event = event_of(time, step);
  append_field(event, 5, summary);
  write(event);
}

void EventFile::text(int64_t step, double time, const std::string& tag, const std::string& text) {
  std::string summary, event = event_of(time, step);
  append_field(summary, 1, text_value(tag, text));
  append_field(event, 5, summary);
  write(event);
}

// A record: length, its sum, the event, its sum.
void EventFile::write(std::string_view event) {
  std::string record;
  append_bytes(record, uint64_t(event.size()));
  append_bytes(record, masked_crc(record));
  record += event;
  append_bytes(record, masked_crc(event));
  if (std::fwrite(record.data(), 1, record.size(), file_) != record.size() || std::fflush(file_) != 0)
    fail(ErrorKind::not_found, path_.string() + ": cannot be written; is the disk full?");
}

}  // namespace fulgur
