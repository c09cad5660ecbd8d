// Products of float activations: weights become float, a chunk of a row at a time.
#pragma once

#include "common.h"

namespace {

constexpr int64_t kFloatChunk = 512, kAheadHalves = 1024;

template <class V, int kBits>
void dequantize_codes(const uint8_t* from, const float* scales, const float* shifts, int64_t blocks, int64_t block,
                      float* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    const auto scale = V::broadcast(scales[b]), shift = V::broadcast(shifts[b]);
    for (const float* end = out + block; out < end; out += V::kLanes, from += V::kLanes * kBits / 8)
      V::store(out, V::fma(kBits == 8 ? V::codes8(from) : V::codes4(from), scale, shift));
  }
}

// `count` codes of two planes of row n, from column `first` on, a byte each.
inline const uint8_t* join_planes(const Matrix& m, int64_t n, int64_t first, int64_t count, uint8_t* codes) {
  const int low = low_bits(m.bits), high = m.bits - low;
  const uint8_t* planes[2] = {m.row(n), m.row(n) + m.columns * low / 8};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at[2] = {(first + i) * low, (first + i) * high};
    const int bits[2] = {planes[0][at[0] / 8] >> at[0] % 8 & ((1 << low) - 1), planes[1][at[1] / 8] >> at[1] % 8 & ((1 << high) - 1)};
    codes[i] = static_cast<uint8_t>(bits[0] | bits[1] << low);
  }
  return codes;
}

// The float values of `count` weights of row n from column `first` on, with zeros up to a full vector.
template <class V>
void dequantize(const Matrix& m, int64_t n, int64_t first, int64_t count, float* out) {
  if (m.quantized()) {
    alignas(64) float scales[kFloatChunk / 16 + V::kLanes], shifts[kFloatChunk / 16 + V::kLanes];
    load_scales<V>(m, n, m.blocks(first), m.blocks(count), 0, scales, shifts);
    const uint8_t* from = m.row(n) + first * low_bits(m.bits) / 8;
    const auto dequantize = m.bits == 4 ? dequantize_codes<V, 4> : dequantize_codes<V, 8>;
    uint8_t codes[kFloatChunk];
    if (m.bits != 4 && m.bits != 8) from = join_planes(m, n, first, count, codes);
    return dequantize(from, scales, shifts, m.blocks(count), m.block, out);
  }
  const uint16_t* from = reinterpret_cast<const uint16_t*>(m.row(n)) + first;
  for (int64_t k = 0; k < count; k += V::kLanes)
    V::store(out + k, m.bfloat ? V::load_bfloat(from + k, count - k) : V::load_half(from + k, count - k));
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

template <class V, int kR, int kT>
void dot_float_tokens(const float (*weights)[kFloatChunk], int64_t count, const float* const* x, int64_t tokens,
                      int64_t stride, float* out) {
  for (; tokens >= kT; tokens -= kT, x += kT, out += kT * stride)
    dot_floats<V, kR, kT>(weights, count, x, stride, out);
  if constexpr (kT > 1) dot_float_tokens<V, kR, kT / 2>(weights, count, x, tokens, stride, out);
}

template <class V, int kR>
void multiply_float_rows(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens,
                         int64_t stride, float* out) {
  alignas(64) float weights[kR][kFloatChunk];
  const float* from[kMaxTokens];
  for (int64_t r = 0; r < rows; r += kR)
    for (int64_t k = 0; k < m.columns; k += kFloatChunk) {
      const int64_t count = smaller(kFloatChunk, m.columns - k);
      for (int i = 0; i < kR; ++i) dequantize<V>(m, first + r + i, k, count, weights[i]);
      for (int64_t t = 0; t < tokens; ++t) from[t] = static_cast<const float*>(x[t]) + k;
      dot_float_tokens<V, kR, 4>(weights, count, from, tokens, stride, out + r);
    }
}

// out[t * stride] = 16-bit row n . x[t], straight from where it is stored.
template <class V, int kCount>
void dot_half_row(const Matrix& m, int64_t n, const void* const* x, int64_t stride, float* out) {
  const auto* row = reinterpret_cast<const uint16_t*>(m.row(n));
  typename V::F sum[kCount][2];
  for (auto& of_token : sum) of_token[0] = of_token[1] = V::zero();
  for (int64_t k = 0; k < m.columns; k += 2 * V::kLanes)
    for (int half = 0; half < 2; ++half) {
      const int64_t at = k + half * V::kLanes, left = m.columns - at;
      if (left <= 0) break;
      __builtin_prefetch(row + at + kAheadHalves);
      const auto weights = m.bfloat ? V::load_bfloat(row + at, left) : V::load_half(row + at, left);
      for (int t = 0; t < kCount; ++t)
        sum[t][half] = V::fma(weights, V::load(static_cast<const float*>(x[t]) + at, left), sum[t][half]);
    }
  for (int t = 0; t < kCount; ++t) out[t * stride] = V::sum(V::add(sum[t][0], sum[t][1]));
}

template <class V, int kCount>
void multiply_half_rows(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens, float* out) {
  for (; tokens >= kCount; tokens -= kCount, x += kCount, out += kCount * rows)
    for (int64_t r = 0; r < rows; ++r) dot_half_row<V, kCount>(m, first + r, x, rows, out + r);
  if constexpr (kCount > 1) multiply_half_rows<V, kCount / 2>(m, first, rows, x, tokens, out);
}

template <class V>
void multiply(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens, float* out) {
  // Few tokens: memory is the limit, and one row after the other is what the prefetcher follows best.
  if (!m.quantized() && tokens < 4) return multiply_half_rows<V, 2>(m, first, rows, x, tokens, out);
  memset(out, 0, static_cast<size_t>(rows * tokens) * sizeof(float));
  const int64_t blocked = tokens < 4 ? 0 : rows / 4 * 4;
  multiply_float_rows<V, 4>(m, first, blocked, x, tokens, rows, out);
  multiply_float_rows<V, 1>(m, first + blocked, rows - blocked, x, tokens, rows, out + blocked);
}

}  // namespace
