// Products for many tokens. The weights of two vectors of rows are unpacked once for all tokens, in the order that the
// dot product wants: a vector holds a few codes of each of kLanes rows, which are multiplied by the same few values of
// a token. A block then costs one product of scales for kLanes rows, and nothing is summed across lanes. A variant that
// takes this path defines, besides what common.h lists:
//
//   kTileTokens         tokens at a time: two sums and two parts for each stay in registers
//   kFewTokens          fewer tokens than this are faster row by row
//   transpose(rows)     of kLanes vectors of kLanes floats, whatever their bits mean
//   store(p, f, n)      the first n lanes
//   dwords(p)           the four bytes at p, in every int32
//   part<bits, A>(w, i) int32s of stored codes -> those of bits [i * bits, ...) of every A
//   shuffle(b, p)       the bytes p[0, 16) of each 16 bytes
//   subtract<T>(a, b)   lanes of type T
#pragma once

#include <algorithm>

#include "body.h"

namespace {

constexpr uint8_t kOffset[4] = {128, 128, 128, 128};  // of the activations' bytes, one factor being unsigned

// The order of a token's values that unpacked weights want, in each 16 bytes: code i + j * kParts of the codes in four
// stored bytes becomes element j of int32 i.
template <class A, int kBits>
struct Order {
  static constexpr int kParts = 8 * sizeof(A) / kBits;  // int32 vectors from one of stored codes

  alignas(16) uint8_t bytes[16];

  constexpr Order() : bytes() {
    constexpr int kStored = 32 / kBits, kElements = 4 / sizeof(A);
    for (int i = 0; i < 16; ++i) {
      const int element = i / static_cast<int>(sizeof(A)), in = element % kStored;
      const int from = element - in + in / kElements + in % kElements * kParts;
      bytes[i] = static_cast<uint8_t>(from * static_cast<int>(sizeof(A)) + i % static_cast<int>(sizeof(A)));
    }
  }
};

// kLanes units of every token; bytes are offset.
template <class V, class A>
struct Panel {
  static constexpr int64_t kBytes = V::kLanes * kUnit * sizeof(A), kGroup = V::kLanes / 4;

  alignas(64) A codes[kMaxTokens][V::kLanes * kUnit];
  alignas(64) float scales[kMaxTokens][V::kLanes];

  template <int kBits>
  void load(const Quantized<V, A>* x, int64_t tokens, int64_t unit) {
    static constexpr Order<A, kBits> order;
    for (int64_t t = 0; t < tokens; ++t) {
      const auto* from = reinterpret_cast<const uint8_t*>(x[t].codes + unit * kUnit);
      auto* to = reinterpret_cast<uint8_t*>(codes[t]);
      for (int64_t i = 0; i < kBytes; i += static_cast<int64_t>(sizeof(typename V::B))) {
        auto values = V::shuffle(V::load_bytes(from + i), order.bytes);
        if (sizeof(A) == 1) values = V::template subtract<int8_t>(values, V::dwords(kOffset));
        memcpy(to + i, &values, sizeof values);
      }
      V::store(scales[t], V::load(x[t].scales + unit));
    }
  }

  // The int32 `q` of unit u of token t.
  typename V::I values(int64_t t, int64_t u, int64_t q) const {
    const int64_t at = u / kGroup * kGroup * kUnit * static_cast<int64_t>(sizeof(A)) + u % kGroup * 16;
    return V::dwords(reinterpret_cast<const uint8_t*>(codes[t]) + at + q / 4 * kGroup * 16 + q % 4 * 4);
  }

};

// kLanes units of two vectors of rows: codes less their zero points.
template <class V, class A>
struct Weights {
  static constexpr int64_t kRows = 2 * V::kLanes, kQuads = kUnit * sizeof(A) / 4;

  typename V::I codes[V::kLanes][kQuads][2];
  typename V::F scales[V::kLanes][2];
  typename V::I start[V::kLanes][2];  // what undoes the offset of the activations' bytes

  explicit Weights(const Matrix& m) {
    for (auto& unit : zero_points_) std::fill_n(unit, V::kLanes, kEach << (m.bits - 1));
  }

  // Rows [n, last], the last one repeated.
  template <int kBits>
  void load(const Matrix& m, int64_t n, int64_t last, int64_t unit, int64_t units) {
    for (int half = 0; half < 2; ++half) {
      const auto row = [&](int64_t r) { return smaller(n + half * V::kLanes + r, last); };
      load_scales(m, row, unit, units, half);
      if (m.zero_points) load_zero_points(m, row, unit, units);
      load_codes<kBits>(m, row, unit, units, half);
    }
  }

 private:
  static constexpr uint32_t kEach = sizeof(A) == 1 ? 0x01010101 : 0x00010001;  // times a value: in each element

  alignas(64) uint32_t zero_points_[V::kLanes][V::kLanes];  // of a unit's rows, in each element of their int32

  template <class R>
  void load_scales(const Matrix& m, const R& row, int64_t unit, int64_t units, int half) {
    typename V::F rows[V::kLanes];
    const int64_t first = m.blocks(unit * kUnit), count = m.blocks(units * kUnit);
    for (int r = 0; r < V::kLanes; ++r) rows[r] = V::load_half(m.row_scales(row(r)) + first, count);
    V::transpose(rows);
    for (int64_t u = 0; u < units; ++u) scales[u][half] = rows[m.blocks(u * kUnit)];
  }

  template <class R>
  void load_zero_points(const Matrix& m, const R& row, int64_t unit, int64_t units) {
    for (int r = 0; r < V::kLanes; ++r) {
      const uint8_t* points = m.row_zero_points(row(r));
      for (int64_t u = 0; u < units; ++u) {
        const int64_t b = m.blocks((unit + u) * kUnit);
        zero_points_[u][r] = kEach * (m.bits == 8 ? points[b] : points[b / 2] >> (b % 2 * 4) & 15);
      }
    }
  }

  template <int kBits, class R>
  void load_codes(const Matrix& m, const R& row, int64_t unit, int64_t units, int half) {
    constexpr int kParts = Order<A, kBits>::kParts;
    // Columns of rows lie apart: the rows after these are fetched in the order of memory, some with each tile.
    const int64_t read = (2 * unit + half * V::kLanes) * kBits * 4 * V::kLanes;  // bytes of these rows before
    const uint8_t* next = m.row(row(0) + V::kLanes * (2 - half)) + read;
    const int64_t stored = units * kBits;  // int32 of a row: a unit fills as many as a code has bits
    for (int64_t i = 0; i < stored; i += V::kLanes) {
      typename V::F rows[V::kLanes];
      for (int r = 0; r < V::kLanes; ++r) {
        const auto* from = m.row(row(r)) + 4 * (unit * kBits + i);
        __builtin_prefetch(next, 0, 2);
        next += 4 * V::kLanes;
        rows[r] = V::load(reinterpret_cast<const float*>(from), stored - i);
      }
      V::transpose(rows);
      for (int64_t j = 0; j < smaller(V::kLanes, stored - i); ++j) {
        const int64_t u = (i + j) / kBits, q = (i + j) % kBits * kParts;
        const auto zero_points = V::load_bytes(zero_points_[u]);
        for (int part = 0; part < kParts; ++part)
          codes[u][q + part][half] = V::template subtract<A>(V::template part<kBits, A>(rows[j], part), zero_points);
      }
    }
    if constexpr (sizeof(A) == 1) set_start(units, half);
  }

  void set_start(int64_t units, int half) {
    for (int64_t u = 0; u < units; ++u) {
      auto sum = V::izero();
      for (int q = 0; q < kQuads; ++q) sum = V::template dot<4, A>(sum, V::dwords(kOffset), codes[u][q][half]);
      start[u][half] = V::template subtract<int32_t>(V::izero(), sum);
    }
  }
};

// out[t * stride + r] += row r . token t, for kCount tokens from `first` on.
template <class V, class A, int kCount>
void dot_tile(const Weights<V, A>& weights, const Panel<V, A>& x, int64_t first, int64_t units, int64_t rows,
              int64_t stride, float* out) {
  typename V::F sum[kCount][2];
  for (int t = 0; t < kCount; ++t)
    for (int half = 0; half < 2; ++half)
      sum[t][half] = V::load(out + t * stride + half * V::kLanes, larger(rows - half * V::kLanes, 0));
  for (int64_t u = 0; u < units; ++u) {
    typename V::I part[kCount][2];
    for (int t = 0; t < kCount; ++t)
      for (int half = 0; half < 2; ++half) part[t][half] = sizeof(A) == 1 ? weights.start[u][half] : V::izero();
    for (int q = 0; q < weights.kQuads; ++q)
      for (int t = 0; t < kCount; ++t) {
        const auto values = x.values(first + t, u, q);
        for (int half = 0; half < 2; ++half)
          part[t][half] = V::template dot<4, A>(part[t][half], values, weights.codes[u][q][half]);
      }
    for (int t = 0; t < kCount; ++t)
      for (int half = 0; half < 2; ++half) {
        const auto scale = V::mul(weights.scales[u][half], V::broadcast(x.scales[first + t][u]));
        sum[t][half] = V::fma(V::to_float(part[t][half]), scale, sum[t][half]);
      }
  }
  for (int t = 0; t < kCount; ++t)
    for (int half = 0; half < 2; ++half)
      V::store(out + t * stride + half * V::kLanes, sum[t][half], larger(rows - half * V::kLanes, 0));
}

// Tokens go kCount at a time, the rest fewer at a time.
template <class V, class A, int kCount>
void dot_tiles(const Weights<V, A>& weights, const Panel<V, A>& x, int64_t first, int64_t tokens, int64_t units,
               int64_t rows, int64_t stride, float* out) {
  for (; tokens >= kCount; tokens -= kCount, first += kCount, out += kCount * stride)
    dot_tile<V, A, kCount>(weights, x, first, units, rows, stride, out);
  if constexpr (kCount > 1)
    dot_tiles<V, A, kCount / 2>(weights, x, first, tokens, units, rows, stride, out);
}

template <class V, class A, int kBits>
void multiply_tiles(const Matrix& m, int64_t first, int64_t rows, const Quantized<V, A>* x, int64_t tokens,
                    float* out) {
  Panel<V, A> panel;
  Weights<V, A> weights(m);
  for (int64_t r = 0; r < rows; r += weights.kRows)
    for (int64_t unit = 0; unit < m.columns / kUnit; unit += V::kLanes) {
      const int64_t units = smaller(V::kLanes, m.columns / kUnit - unit);
      panel.template load<kBits>(x, tokens, unit);
      weights.template load<kBits>(m, first + r, first + rows - 1, unit, units);
      dot_tiles<V, A, V::kTileTokens>(weights, panel, 0, tokens, units, rows - r, rows, out + r);
    }
}

// Whether codes less their zero points fit A, and sums of their products the variant's integers.
template <class V, class A>
bool fits_tiles(const Matrix& m) {
  return m.block >= kUnit && (sizeof(A) == 2 || m.bits == 4 || (!m.zero_points && !V::template kOffset8<A>));
}

template <class V, class A>
void multiply_tiled(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens, float* out) {
  if (tokens < V::kFewTokens || !fits_tiles<V, A>(m)) return multiply_quantized<V, A>(m, first, rows, x, tokens, out);
  memset(out, 0, static_cast<size_t>(rows * tokens) * sizeof(float));
  Quantized<V, A> views[kMaxTokens];
  for (int64_t t = 0; t < tokens; ++t) views[t] = Quantized<V, A>(x[t], m.columns);
  const auto multiply = m.bits == 4 ? multiply_tiles<V, A, 4> : multiply_tiles<V, A, 8>;
  multiply(m, first, rows, views, tokens, out);
}

template <class V, class A>
constexpr QuantizedKernels make_tiled() {
  return {quantized_bytes<V, A>, quantize<V, A>, multiply_quantized<V, A>, multiply_tiled<V, A>};
}

template <class V>
constexpr Kernels make_tiled_kernels(const char* name) {
  return {name, multiply<V>, make_tiled<V, int8_t>(), make_tiled<V, int16_t>()};
}

}  // namespace
