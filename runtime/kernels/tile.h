// How work is cut into tasks: by shape alone, so that results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gemm/gemm.h"

namespace edgepress {

constexpr int64_t kTileRows = 64;  // a multiple of 64: 32 pairs of gate and up rows fill a unit of activations

// Products of one tile, [tokens, rows]; small enough for a task's stack.
struct Tile {
  float values[kMaxTokens * kTileRows];
};

inline int64_t tiles(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Activations of many tokens, float or quantized, one row each.
class Rows {
 public:
  Rows(const Kernels& kernels, int64_t count, int64_t columns)
      : stride_(std::max<int64_t>(kernels.quantized_bytes(columns), columns * sizeof(float))),
        bytes_(static_cast<size_t>(count * stride_ + 63)) {}

  uint8_t* operator[](int64_t row) {
    const auto start = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - start % 64) % 64 + row * stride_;
  }

 private:
  int64_t stride_;
  std::vector<uint8_t> bytes_;
};

inline void multiply(const Kernels& kernels, bool quantized, const Matrix& weights, int64_t first, int64_t rows,
                     const void* const* x, int64_t tokens, Tile& out) {
  (quantized ? kernels.multiply_quantized : kernels.multiply)(weights, first, rows, x, tokens, out.values);
}

}  // namespace edgepress
