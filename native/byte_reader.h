#pragma once
// Reads the packed little-endian formats that TypeScript writes. A read past the end is a bug of ours, not
// bad input: it marks the reader as failed, and the caller refuses the whole buffer.
#include <cstdint>
#include <cstring>
#include <string>

class ByteReader {
 public:
  ByteReader(const uint8_t *data, size_t size) : at_(data), end_(data + size) {}
  bool Failed() const { return failed_; }
  bool AtEnd() const { return at_ == end_; }
  const uint8_t *Bytes(size_t count) {
    if (static_cast<size_t>(end_ - at_) < count) {
      failed_ = true;
      at_ = end_;
      return zeros_;
    }
    const uint8_t *here = at_;
    at_ += count;
    return here;
  }
  uint8_t U8() { return *Bytes(1); }
  uint32_t U32() {
    uint32_t value;
    memcpy(&value, Bytes(4), 4);
    return value;
  }
  // A length byte and that many bytes.
  std::string Text() {
    size_t length = U8();
    const uint8_t *bytes = Bytes(length);
    return failed_ ? std::string() : std::string(reinterpret_cast<const char *>(bytes), length);
  }

 private:
  const uint8_t *at_;
  const uint8_t *end_;
  bool failed_ = false;
  // The longest read that a failed reader may be asked for: a set key and its data.
  uint8_t zeros_[512] = {};
};
