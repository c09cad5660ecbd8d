// What the micro-kernels of all variants share. They are one algorithm over the vectors `V` of a variant, which defines:
//
//   F, I, B            kLanes floats, as many int32, and the bytes or words that fill as much
//   load(p) ...        kLanes values; with a count n the first n, the others zero, and nothing past them is read
//   fma(a, b, c)       a * b + c
//   spread(p, q)       p[u] * q[u] in lanes 4u to 4u + 3
//   order<bits, A>     stored codes of kLanes / 4 units -> bytes (A = int8_t): the first 16 of each unit, then the last
//                      16 of each; or words (A = int16_t): the first 8 of each unit, then the next 8 of each, ...
//   dot<bits, A>       adds to each int32 of `a` the product of its four bytes (two words) of codes and activations
//   kOffset8<A>        what `order` subtracts from codes of 8 bits
//   kTokens            how many tokens' sums the registers hold
//
// Everything here is internal to the variant's object file: an inline function shared between files that are compiled
// for different instruction sets could be linked in the form that this machine cannot run.
#pragma once

#include "gemm.h"
#include "half.h"

namespace {

using edgepress::kLargest;
using edgepress::kMaxTokens;
using edgepress::kUnit;
using edgepress::Matrix;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// scale and scale * (offset - zero point) of `count` blocks of row n from block `first` on, zeros up to a full vector.
template <class V>
void load_scales(const Matrix& m, int64_t n, int64_t first, int64_t count, int offset, float* scales, float* shifts) {
  const uint8_t* points = m.zero_points ? m.row_zero_points(n) : nullptr;
  const auto added = V::broadcast(static_cast<float>(offset));
  auto point = V::broadcast(static_cast<float>(1 << (m.bits - 1)));
  for (int64_t b = 0; b < count; b += V::kLanes) {
    const auto scale = V::load_half(m.row_scales(n) + first + b, count - b);
    if (points) point = m.bits == 8 ? V::codes8(points + first + b, count - b)
                                    : V::codes4(points + (first + b) / 2, count - b);
    V::store(scales + b, scale);
    V::store(shifts + b, V::mul(scale, V::sub(added, point)));
  }
}

}  // namespace
