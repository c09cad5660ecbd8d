// The micro-kernels' one algorithm, over the vectors `V` of a variant. A variant defines V in an unnamed namespace:
//
//   F, I, B            kLanes floats, as many int32, and four times as many bytes
//   load(p, n) ...     the first n of kLanes values, the others zero; nothing past them is read
//   fma(a, b, c)       a * b + c
//   dot<bits>(a, w, x) adds to each int32 of `a` the product of four codes and four activations
//   spread(p, q)       p[u] * q[u] in lanes 4u to 4u + 3
//   order4, order8     codes of kGroup units as stored -> the first 16 of each unit, then the last 16 of each
//   kOffset8           what order8 subtracts from codes of 8 bits
//
// Everything here is internal to the variant's object file: an inline function shared between files that are compiled
// for different instruction sets could be linked in the form that this machine cannot run.
#pragma once

#include "gemm.h"
#include "half.h"

namespace {

using edgepress::Kernels;
using edgepress::kUnit;
using edgepress::Matrix;

constexpr int64_t kChunk = 2048;  // quantized weights of a row at a time: at most 128 blocks, at least 16
constexpr int64_t kChunkUnits = kChunk / kUnit;
constexpr int64_t kFloatChunk = 512;
constexpr int kTokens = 4;  // registers: a micro-kernel sums this many tokens at once
constexpr int kRows = 4;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- quantized activations -------------------------------------------------------------------------------------

// A row: the codes in V's order, a scale per unit, and scale * (sum of codes) of each unit's two halves.
template <class V>
struct Quantized {
  static constexpr int64_t kGroup = V::kLanes / 4;  // units whose codes are in one vector pair

  int8_t* codes;
  float* scales;
  float* sums[2];

  Quantized(const void* row, int64_t columns) {
    const int64_t padded = units(columns);
    codes = static_cast<int8_t*>(const_cast<void*>(row));
    scales = reinterpret_cast<float*>(codes + padded * kUnit);
    sums[0] = scales + padded;
    sums[1] = sums[0] + padded;
  }

  static int64_t units(int64_t columns) { return round_up((columns + kUnit - 1) / kUnit, V::kLanes); }

  void set_unit(int64_t u, const float* x, int64_t count) {
    float values[kUnit] = {};
    memcpy(values, x, static_cast<size_t>(count) * sizeof(float));
    uint32_t largest = 0;  // of the magnitudes' bits, which order floats and put NaN above all
    for (float v : values) {
      const uint32_t magnitude = float_to_bits(v) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
    const float scale = bits_to_float(largest) / 127;
    const bool usable = scale > 0 && scale * 0 == 0;  // neither all zero nor NaN or infinite
    constexpr float kRound = 12582912;                // 1.5 * 2^23: adding it rounds to an integer, ties to even
    int32_t rounded[kUnit];
    for (int i = 0; i < kUnit; ++i) {
      float q = usable ? values[i] / scale : 0;
      q = q > 127 ? 127 : q < -127 ? -127 : q;
      rounded[i] = static_cast<int32_t>(float_to_bits(q + kRound) - float_to_bits(kRound));
    }
    scales[u] = scale;
    int8_t* group = codes + u / kGroup * kGroup * kUnit + u % kGroup * 16;
    for (int half = 0; half < 2; ++half) {
      int32_t sum = 0;
      for (int i = 0; i < 16; ++i) {
        group[half * kGroup * 16 + i] = static_cast<int8_t>(rounded[16 * half + i]);
        sum += rounded[16 * half + i];
      }
      sums[half][u] = scale * static_cast<float>(sum);
    }
  }
};

template <class V>
int64_t quantized_bytes(int64_t columns) {
  return round_up(Quantized<V>::units(columns) * (kUnit + 3 * static_cast<int64_t>(sizeof(float))), 64);
}

template <class V>
void quantize(const float* x, int64_t first, int64_t count, int64_t columns, uint8_t* row) {
  Quantized<V> out(row, columns);
  for (int64_t k = 0; k < count; k += kUnit) out.set_unit((first + k) / kUnit, x + k, smaller(kUnit, count - k));
  if (first + count < columns) return;
  for (int64_t u = round_up(columns, kUnit) / kUnit; u < out.units(columns); ++u) out.set_unit(u, x, 0);
}

// ---- quantized weights -----------------------------------------------------------------------------------------

// scale and scale * zero point of `count` blocks of row n from block `first` on, with zeros up to a full vector.
template <class V>
void load_scales(const Matrix& m, int64_t n, int64_t first, int64_t count, int offset, float* scales, float* zeros) {
  const uint8_t* points = m.zero_points ? m.zero_points + n * ((m.blocks() * m.bits + 7) / 8) : nullptr;
  for (int64_t b = 0; b < count; b += V::kLanes) {
    const auto scale = V::load_half(m.row_scales(n) + first + b, count - b);
    auto point = V::broadcast(static_cast<float>(1 << (m.bits - 1)));
    if (points) point = m.bits == 8 ? V::codes8(points + first + b, count - b)
                                    : V::codes4(points + (first + b) / 2, count - b);
    V::store(scales + b, scale);
    V::store(zeros + b, V::mul(scale, V::sub(point, V::broadcast(static_cast<float>(offset)))));
  }
}

// A chunk of a row: codes in V's order; scale and scale * zero point for the halves of each unit (the second half only
// where a block is half a unit).
template <class V>
struct Row {
  static constexpr int64_t kGroup = V::kLanes / 4;

  alignas(64) uint8_t codes[kChunk];
  alignas(64) float scales[2][kChunkUnits];
  alignas(64) float zeros[2][kChunkUnits];

  void load(const Matrix& m, int64_t n, int64_t first, int64_t count) {
    const int64_t bytes = count * m.bits / 8, step = kGroup * kUnit * m.bits / 8;
    const uint8_t* stored = m.row(n) + first * m.bits / 8;
    for (int64_t i = 0; i < bytes; i += step) {
      uint8_t last[kGroup * kUnit] = {};
      const uint8_t* from = stored + i;
      if (bytes - i < step) from = static_cast<uint8_t*>(memcpy(last, from, static_cast<size_t>(bytes - i)));
      uint8_t* to = codes + i * 8 / m.bits;
      m.bits == 4 ? V::order4(from, to) : V::order8(from, to);
    }
    const int64_t block = first / m.block, blocks = count / m.block;
    const int offset = m.bits == 8 ? V::kOffset8 : 0;
    if (m.block == kUnit) return load_scales<V>(m, n, block, blocks, offset, scales[0], zeros[0]);
    spread_scales(m, n, block, blocks, offset);
  }

 private:
  void spread_scales(const Matrix& m, int64_t n, int64_t first, int64_t blocks, int offset) {
    alignas(64) float scale[kChunk / 16 + V::kLanes] = {}, zero[kChunk / 16 + V::kLanes] = {};
    load_scales<V>(m, n, first, blocks, offset, scale, zero);
    for (int64_t u = 0; u < kChunkUnits; ++u)
      for (int half = 0; half < 2; ++half) {
        const int64_t b = (u * kUnit + half * 16) / m.block;
        scales[half][u] = b < blocks ? scale[b] : 0;
        zeros[half][u] = b < blocks ? zero[b] : 0;
      }
  }
};

// ---- products of quantized activations -------------------------------------------------------------------------

// out[t * stride] += row . x[t], over the units that `x` has from `first` on.
template <class V, int kBits, bool kHalves, int kCount>
void dot_quantized(const Row<V>& row, int64_t units, int64_t first, const Quantized<V>* x, int64_t stride, float* out) {
  constexpr int64_t kGroup = V::kLanes / 4, kBytes = 4 * V::kLanes;
  typename V::F sum[kCount];
  for (int t = 0; t < kCount; ++t) sum[t] = V::zero();
  for (int64_t u = 0; u < units; u += kGroup) {
    const auto low = V::load_bytes(row.codes + u * kUnit), high = V::load_bytes(row.codes + u * kUnit + kBytes);
    for (int t = 0; t < kCount; ++t) {
      const int8_t* codes = x[t].codes + (first + u) * kUnit;
      const float* scales = x[t].scales + first + u;
      const auto x_low = V::load_bytes(codes), x_high = V::load_bytes(codes + kBytes);
      auto part = V::template dot<kBits>(V::izero(), low, x_low);
      if (kHalves) {
        sum[t] = V::fma(V::to_float(part), V::spread(row.scales[0] + u, scales), sum[t]);
        part = V::template dot<kBits>(V::izero(), high, x_high);
      } else {
        part = V::template dot<kBits>(part, high, x_high);
      }
      sum[t] = V::fma(V::to_float(part), V::spread(row.scales[kHalves] + u, scales), sum[t]);
    }
  }
  for (int t = 0; t < kCount; ++t) {
    typename V::F zero = V::zero();
    for (int64_t u = 0; u < units; u += V::kLanes)
      for (int half = 0; half < 2; ++half)
        zero = V::fma(V::load(row.zeros[kHalves * half] + u), V::load(x[t].sums[half] + first + u), zero);
    out[t * stride] += V::sum(V::sub(sum[t], zero));
  }
}

template <class V, int kBits, bool kHalves>
void dot_tokens(const Row<V>& row, int64_t units, int64_t first, const void* const* x, int64_t tokens, int64_t columns,
                int64_t stride, float* out) {
  for (int64_t t = 0; t < tokens; t += kTokens) {
    const int64_t count = smaller(kTokens, tokens - t);
    const auto at = [&](int64_t i) { return Quantized<V>(x[smaller(t + i, tokens - 1)], columns); };
    const Quantized<V> some[kTokens] = {at(0), at(1), at(2), at(3)};
    float* to = out + t * stride;
    switch (count) {
      case 4: dot_quantized<V, kBits, kHalves, 4>(row, units, first, some, stride, to); break;
      case 3: dot_quantized<V, kBits, kHalves, 3>(row, units, first, some, stride, to); break;
      case 2: dot_quantized<V, kBits, kHalves, 2>(row, units, first, some, stride, to); break;
      default: dot_quantized<V, kBits, kHalves, 1>(row, units, first, some, stride, to);
    }
  }
}

template <class V>
void multiply_quantized(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens,
                        float* out) {
  const bool halves = m.block < kUnit;
  const auto dot = m.bits == 4 ? (halves ? dot_tokens<V, 4, true> : dot_tokens<V, 4, false>)
                               : (halves ? dot_tokens<V, 8, true> : dot_tokens<V, 8, false>);
  memset(out, 0, static_cast<size_t>(rows * tokens) * sizeof(float));
  Row<V> row;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < m.columns; k += kChunk) {
      const int64_t count = smaller(kChunk, m.columns - k);
      row.load(m, first + r, k, count);
      dot(row, (count + kUnit - 1) / kUnit, k / kUnit, x, tokens, m.columns, rows, out + r);
    }
}

// ---- products of float activations -----------------------------------------------------------------------------

// The float values of `count` weights of row n from column `first` on, with zeros up to a full vector.
template <class V>
void dequantize(const Matrix& m, int64_t n, int64_t first, int64_t count, float* out) {
  if (!m.quantized()) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(m.row(n)) + first;
    for (int64_t k = 0; k < count; k += V::kLanes)
      V::store(out + k, m.bfloat ? V::load_bfloat(from + k, count - k) : V::load_half(from + k, count - k));
    return;
  }
  alignas(64) float scales[kFloatChunk / 16 + V::kLanes], zeros[kFloatChunk / 16 + V::kLanes];
  load_scales<V>(m, n, first / m.block, count / m.block, 0, scales, zeros);
  const uint8_t* from = m.row(n) + first * m.bits / 8;
  for (int64_t k = 0; k < count; k += V::kLanes) {
    const auto codes = m.bits == 8 ? V::codes8(from + k, count - k) : V::codes4(from + k / 2, count - k);
    const int64_t b = k / m.block;
    V::store(out + k, V::sub(V::mul(codes, V::broadcast(scales[b])), V::broadcast(zeros[b])));
  }
}

// out[t * stride + r] += weights[r] . x[t]
template <class V, int kR, int kT>
void dot_floats(const float (*weights)[kFloatChunk], int64_t count, const float* const* x, int64_t stride, float* out) {
  typename V::F sum[kR][kT];
  for (auto& of_row : sum)
    for (auto& s : of_row) s = V::zero();
  for (int64_t k = 0; k < count; k += V::kLanes) {
    typename V::F values[kT];
    for (int t = 0; t < kT; ++t) values[t] = V::load(x[t] + k, count - k);
    for (int r = 0; r < kR; ++r)
      for (int t = 0; t < kT; ++t) sum[r][t] = V::fma(V::load(weights[r] + k), values[t], sum[r][t]);
  }
  for (int t = 0; t < kT; ++t)
    for (int r = 0; r < kR; ++r) out[t * stride + r] += V::sum(sum[r][t]);
}

template <class V, int kR>
void dot_float_tokens(const float (*weights)[kFloatChunk], int64_t first, int64_t count, const void* const* x,
                      int64_t tokens, int64_t stride, float* out) {
  for (int64_t t = 0; t < tokens; t += kTokens) {
    const auto at = [&](int64_t i) { return static_cast<const float*>(x[smaller(t + i, tokens - 1)]) + first; };
    const float* const some[kTokens] = {at(0), at(1), at(2), at(3)};
    float* to = out + t * stride;
    switch (smaller(kTokens, tokens - t)) {
      case 4: dot_floats<V, kR, 4>(weights, count, some, stride, to); break;
      case 3: dot_floats<V, kR, 3>(weights, count, some, stride, to); break;
      case 2: dot_floats<V, kR, 2>(weights, count, some, stride, to); break;
      default: dot_floats<V, kR, 1>(weights, count, some, stride, to);
    }
  }
}

template <class V>
void multiply(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens, float* out) {
  memset(out, 0, static_cast<size_t>(rows * tokens) * sizeof(float));
  alignas(64) float weights[kRows][kFloatChunk];
  for (int64_t r = 0; r < rows; r += kRows) {
    const int64_t some = smaller(kRows, rows - r);
    for (int64_t k = 0; k < m.columns; k += kFloatChunk) {
      const int64_t count = smaller(kFloatChunk, m.columns - k);
      for (int64_t i = 0; i < some; ++i) dequantize<V>(m, first + r + i, k, count, weights[i]);
      if (some == kRows)
        dot_float_tokens<V, kRows>(weights, k, count, x, tokens, rows, out + r);
      else
        for (int64_t i = 0; i < some; ++i)
          dot_float_tokens<V, 1>(weights + i, k, count, x, tokens, rows, out + r + i);
    }
  }
}

template <class V>
constexpr Kernels make_kernels(const char* name) {
  return {name, quantized_bytes<V>, quantize<V>, multiply<V>, multiply_quantized<V>};
}

}  // namespace
