// Products of quantized activations and quantized weights.
#pragma once

#include "common.h"

namespace {

constexpr int64_t kChunk = 2048;  // weights of a row at a time: at most 128 blocks, at least 16
constexpr int64_t kChunkUnits = kChunk / kUnit;
constexpr int64_t kNear = 16384;  // bytes of activations that stay in the first cache while rows of weights pass

// A row: the codes in V's order, a scale per unit, and scale * (sum of codes) of each unit's two halves.
template <class V, class A>
struct Quantized {
  static constexpr int64_t kGroup = V::kLanes / 4;  // units whose codes are in the same vectors
  static constexpr int64_t kRun = 16 / sizeof(A);   // codes of a unit in one vector

  A* codes;
  float* scales;
  float* sums[2];

  Quantized() = default;
  Quantized(const void* row, int64_t columns) {
    const int64_t padded = units(columns);
    codes = static_cast<A*>(const_cast<void*>(row));
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
    const float scale = bits_to_float(largest) / kLargest<A>;
    const bool usable = scale > 0 && scale * 0 == 0;  // neither all zero nor NaN or infinite
    constexpr float kRound = 12582912;                // 1.5 * 2^23: adding it rounds to an integer, ties to even
    int32_t rounded[kUnit];
    for (int i = 0; i < kUnit; ++i) {
      float q = usable ? values[i] / scale : 0;
      q = q > kLargest<A> ? kLargest<A> : q < -kLargest<A> ? -kLargest<A> : q;
      rounded[i] = static_cast<int32_t>(float_to_bits(q + kRound) - float_to_bits(kRound));
    }
    scales[u] = scale;
    for (int half = 0; half < 2; ++half) {
      int32_t sum = 0;
      for (int i = 0; i < 16; ++i) sum += rounded[16 * half + i];
      sums[half][u] = scale * static_cast<float>(sum);
    }
    A* group = codes + u / kGroup * kGroup * kUnit + u % kGroup * kRun;
    for (int run = 0; run < kUnit / kRun; ++run)
      for (int i = 0; i < kRun; ++i) group[run * kGroup * kRun + i] = static_cast<A>(rounded[run * kRun + i]);
  }
};

template <class V, class A>
int64_t quantized_bytes(int64_t columns) {
  return round_up(Quantized<V, A>::units(columns) * static_cast<int64_t>(kUnit * sizeof(A) + 3 * sizeof(float)), 64);
}

template <class V, class A>
void quantize(const float* x, int64_t first, int64_t count, int64_t columns, uint8_t* row) {
  Quantized<V, A> out(row, columns);
  for (int64_t k = 0; k < count; k += kUnit) out.set_unit((first + k) / kUnit, x + k, smaller(kUnit, count - k));
  if (first + count < columns) return;
  for (int64_t u = round_up(columns, kUnit) / kUnit; u < out.units(columns); ++u) out.set_unit(u, x, 0);
}

// A chunk of a row: where its codes are stored, and scale and shift for the halves of each unit (the second half only
// where a block is half a unit).
template <class V, class A>
struct Row {
  static constexpr int64_t kGroup = V::kLanes / 4;

  const uint8_t* codes;
  int64_t units, whole;               // of all units, those in groups that are stored whole; ...
  uint8_t last[kGroup * kUnit] = {};  // ... the others' codes, with zeros after them
  alignas(64) float scales[2][kChunkUnits];
  alignas(64) float shifts[2][kChunkUnits];

  template <int kBits>
  void load(const Matrix& m, int64_t n, int64_t first, int64_t count) {
    constexpr int64_t kGroupWeights = kGroup * kUnit;
    codes = m.row(n) + first * kBits / 8;
    units = (count + kUnit - 1) / kUnit;
    whole = count / kGroupWeights * kGroup;
    if (const int64_t rest = count % kGroupWeights)
      memcpy(last, codes + (count - rest) * kBits / 8, static_cast<size_t>(rest * kBits / 8));
    const int64_t block = m.blocks(first), blocks = m.blocks(count);
    const int offset = kBits == 8 ? V::template kOffset8<A> : 0;
    if (m.block == kUnit) return load_scales<V>(m, n, block, blocks, offset, scales[0], shifts[0]);
    spread_scales(m, n, block, blocks, offset);
  }

  template <int kBits>
  const uint8_t* group(int64_t u) const {
    return u < whole ? codes + u * kUnit * kBits / 8 : last;
  }

 private:
  void spread_scales(const Matrix& m, int64_t n, int64_t first, int64_t blocks, int offset) {
    alignas(64) float scale[kChunk / 16 + V::kLanes], shift[kChunk / 16 + V::kLanes];
    load_scales<V>(m, n, first, blocks, offset, scale, shift);
    for (int64_t u = 0; u < round_up(units, V::kLanes); ++u)
      for (int half = 0; half < 2; ++half) {
        const int64_t b = m.blocks(u * kUnit + half * 16);
        scales[half][u] = b < blocks ? scale[b] : 0;
        shifts[half][u] = b < blocks ? shift[b] : 0;
      }
  }
};

// out[t * stride] += row . x[t] for kCount tokens, whose units begin at `first`.
template <class V, class A, int kBits, bool kHalves, int kCount>
void dot_quantized(const Row<V, A>& row, int64_t first, const Quantized<V, A>* x, int64_t stride, float* out) {
  constexpr int64_t kGroup = V::kLanes / 4;
  constexpr int kVectors = 2 * sizeof(A);  // of a group's codes
  typename V::F sum[kCount];
  for (int t = 0; t < kCount; ++t) {
    sum[t] = V::zero();
    for (int64_t u = 0; u < row.units; u += V::kLanes)
      for (int half = 0; half < 2; ++half)
        sum[t] = V::fma(V::load(row.shifts[kHalves * half] + u), V::load(x[t].sums[half] + first + u), sum[t]);
  }
  for (int64_t u = 0; u < row.units; u += kGroup) {
    typename V::B codes[kVectors];
    V::template order<kBits, A>(row.template group<kBits>(u), codes);
    for (int t = 0; t < kCount; ++t) {
      const A* values = x[t].codes + (first + u) * kUnit;
      const float* scales = x[t].scales + first + u;
      auto part = V::izero();
      for (int v = 0; v < kVectors; ++v) {
        if (kHalves && v == kVectors / 2) {
          sum[t] = V::fma(V::to_float(part), V::spread(row.scales[0] + u, scales), sum[t]);
          part = V::izero();
        }
        part = V::template dot<kBits, A>(part, codes[v], V::load_bytes(values + v * 4 * V::kLanes / sizeof(A)));
      }
      sum[t] = V::fma(V::to_float(part), V::spread(row.scales[kHalves] + u, scales), sum[t]);
    }
  }
  for (int t = 0; t < kCount; ++t) out[t * stride] += V::sum(sum[t]);
}

// Tokens go kCount at a time, the rest fewer at a time.
template <class V, class A, int kBits, bool kHalves, int kCount>
void multiply_tokens(const Matrix& m, int64_t first, int64_t rows, const Quantized<V, A>* x, int64_t tokens,
                     float* out) {
  Row<V, A> row;
  for (; tokens >= kCount; tokens -= kCount, x += kCount, out += kCount * rows)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < m.columns; k += kChunk) {
        row.template load<kBits>(m, first + r, k, smaller(kChunk, m.columns - k));
        dot_quantized<V, A, kBits, kHalves, kCount>(row, k / kUnit, x, rows, out + r);
      }
  if constexpr (kCount > 1) multiply_tokens<V, A, kBits, kHalves, kCount / 2>(m, first, rows, x, tokens, out);
}

template <class V, class A, int kBits>
void multiply_codes(const Matrix& m, int64_t first, int64_t rows, const Quantized<V, A>* x, int64_t tokens,
                    float* out) {
  constexpr int kTokens = smaller(V::kTokens, kNear / (kChunk * sizeof(A)));
  const auto multiply = m.block < kUnit ? multiply_tokens<V, A, kBits, true, kTokens>
                                        : multiply_tokens<V, A, kBits, false, kTokens>;
  multiply(m, first, rows, x, tokens, out);
}

template <class V, class A>
void multiply_quantized(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens,
                        float* out) {
  memset(out, 0, static_cast<size_t>(rows * tokens) * sizeof(float));
  Quantized<V, A> views[kMaxTokens];
  for (int64_t t = 0; t < tokens; ++t) views[t] = Quantized<V, A>(x[t], m.columns);
  const auto multiply = m.bits == 4 ? multiply_codes<V, A, 4> : multiply_codes<V, A, 8>;
  multiply(m, first, rows, views, tokens, out);
}

}  // namespace
