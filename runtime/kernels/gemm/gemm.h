// The micro-kernels' border. A micro-kernel computes a few rows of weights times a few tokens; it allocates nothing,
// schedules nothing and checks nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgepress {

// One stored matrix [rows, columns]; see OPS.md. Quantized columns are a multiple of `block`.
struct Matrix {
  const uint8_t* weight;
  const uint16_t* scales;      // float16; null for 16-bit matrices
  const uint8_t* zero_points;  // null where symmetric
  int64_t rows;
  int64_t columns;
  int bits;  // 4, 8 or 16
  int block;
  bool bfloat;  // 16-bit weights are bfloat16

  bool quantized() const { return bits < 16; }
  int64_t blocks() const { return columns / block; }
  const uint8_t* row(int64_t n) const { return weight + n * (columns * bits / 8); }
  const uint16_t* row_scales(int64_t n) const { return scales + n * blocks(); }
  int zero_point(int64_t n, int64_t b) const {
    if (!zero_points) return 1 << (bits - 1);
    const uint8_t* row = zero_points + n * ((blocks() * bits + 7) / 8);
    return bits == 8 ? row[b] : (row[b / 2] >> (b % 2 * 4)) & 15;
  }
};

// Activations are quantized in units of 32 values: scale = absmax / 127, code = x / scale to the nearest, ties to even.
constexpr int kUnit = 32;

constexpr int64_t kMaxTokens = 64;  // of one call

struct Kernels {
  const char* name;

  // Bytes of `columns` quantized activations, in the variant's own layout; a multiple of 64.
  int64_t (*quantized_bytes)(int64_t columns);

  // Quantizes x[first, first + count) of a row of `columns` values into that row's quantized form, where x points at
  // value `first`, which is a multiple of 32; so is first + count, unless it is the row's end. A row is complete, and
  // its padding defined, once all its values were given.
  void (*quantize)(const float* x, int64_t first, int64_t count, int64_t columns, uint8_t* row);

  // out[t * rows + r] = dot(weight row first + r, x[t]). Activations are float [columns], ...
  void (*multiply)(const Matrix& weights, int64_t first, int64_t rows, const void* const* x, int64_t tokens,
                   float* out);
  // ... or quantized rows (quantized weights only).
  void (*multiply_quantized)(const Matrix& weights, int64_t first, int64_t rows, const void* const* x, int64_t tokens,
                             float* out);
};

}  // namespace edgepress
