// The slow, obvious kernels: what the others are tested against.
#include <cmath>
#include <vector>

#include "half.h"
#include "variants.h"

namespace edgepress::reference {
namespace {

// Code i of codes packed one after the other, low bits first; a byte holds a whole number of them.
int packed(const uint8_t* from, int bits, int64_t i) {
  return (from[i * bits / 8] >> (i * bits % 8)) & ((1 << bits) - 1);
}

int code(const Matrix& m, int64_t n, int64_t k) {
  const int low = low_bits(m.bits), high = m.bits - low;
  const int code = packed(m.row(n), low, k);
  return high ? code | packed(m.row(n) + m.columns * low / 8, high, k) << low : code;
}

int zero_point(const Matrix& m, int64_t n, int64_t b) {
  if (!m.zero_points) return 1 << (m.bits - 1);
  return packed(m.row_zero_points(n), zero_point_bits(m.bits), b);
}

double weight(const Matrix& m, int64_t n, int64_t k) {
  if (!m.quantized()) {
    uint16_t bits;
    memcpy(&bits, m.row(n) + 2 * k, sizeof bits);
    return m.bfloat ? bfloat_to_float(bits) : half_to_float(bits);
  }
  const int64_t b = k / m.block;
  return (code(m, n, k) - zero_point(m, n, b)) * static_cast<double>(half_to_float(m.row_scales(n)[b]));
}

void multiply(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens, float* out) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < m.columns; ++k) sum += weight(m, first + r, k) * static_cast<const float*>(x[t])[k];
      out[t * rows + r] = static_cast<float>(sum);
    }
}

template <class A>
struct Unit {
  float scale;
  A codes[kUnit];
};

template <class A>
int64_t quantized_bytes(int64_t columns) {
  const int64_t bytes = (columns + kUnit - 1) / kUnit * static_cast<int64_t>(sizeof(Unit<A>));
  return (bytes + 63) / 64 * 64;
}

template <class A>
void quantize(const float* x, int64_t first, int64_t count, int64_t, uint8_t* row) {
  for (int64_t k = 0; k < count; k += kUnit) {
    const int64_t size = count - k < kUnit ? count - k : kUnit;
    float largest = 0;
    for (int64_t i = 0; i < size; ++i)
      if (std::isnan(x[k + i]) || std::fabs(x[k + i]) > largest) largest = std::fabs(x[k + i]);
    Unit<A> unit{largest / kLargest<A>, {}};
    for (int64_t i = 0; i < size; ++i) {
      const float code = std::nearbyint(x[k + i] / unit.scale);
      unit.codes[i] = std::isfinite(code) ? static_cast<A>(std::fmax(-kLargest<A>, std::fmin(kLargest<A>, code))) : 0;
    }
    memcpy(row + (first + k) / kUnit * static_cast<int64_t>(sizeof unit), &unit, sizeof unit);
  }
}

template <class A>
float dot_quantized(const Matrix& m, int64_t n, const Unit<A>* x) {
  const int64_t run = m.block < kUnit ? m.block : kUnit;
  double sum = 0;
  for (int64_t k = 0; k < m.columns; k += run) {
    const Unit<A>& unit = x[k / kUnit];
    const int64_t b = k / m.block;
    int dot = 0;
    for (int64_t i = k; i < k + run; ++i) dot += (code(m, n, i) - zero_point(m, n, b)) * unit.codes[i % kUnit];
    sum += dot * static_cast<double>(half_to_float(m.row_scales(n)[b])) * unit.scale;
  }
  return static_cast<float>(sum);
}

template <class A>
void multiply_quantized(const Matrix& m, int64_t first, int64_t rows, const void* const* x, int64_t tokens,
                        float* out) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r)
      out[t * rows + r] = dot_quantized(m, first + r, static_cast<const Unit<A>*>(x[t]));
}

double activate(const Activation& a, double g, double u) {
  if (a.gate == Gate::gelu) return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0))) * u;
  if (a.gate == Gate::gelu_tanh) return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
  if (a.gate == Gate::silu) return g / (1 + std::exp(-g)) * u;
  g = std::fmin(g, a.limit);
  u = std::fmax(std::fmin(u, a.limit), -a.limit);
  return (u + 1) * g / (1 + std::exp(-a.alpha * g));
}

void activate(const Activation& activation, const float* pairs, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(activate(activation, pairs[2 * i], pairs[2 * i + 1]));
}

int64_t attention_scratch(int64_t, int64_t) { return 0; }

double score(const AttentionBlock& block, int64_t r, int64_t key) {
  double sum = 0;
  for (int64_t d = 0; d < block.width; ++d)
    sum += static_cast<double>(block.queries[r * block.width + d]) * block.keys[key * block.width + d];
  if (block.softcap > 0) sum = block.softcap * std::tanh(sum / block.softcap);
  return sum + (block.bias ? block.bias[r][key] : 0);
}

void attend(const AttentionBlock& block, float*) {
  for (int64_t r = 0; r < block.rows; ++r) {
    double largest = block.sinks ? block.sinks[r] : -INFINITY;
    for (int64_t key = block.first[r]; key < block.last[r]; ++key) largest = std::fmax(largest, score(block, r, key));
    double total = block.sinks ? std::exp(block.sinks[r] - largest) : 0;
    std::vector<double> sum(static_cast<size_t>(block.width));
    for (int64_t key = block.first[r]; key < block.last[r]; ++key) {
      const double weight = std::exp(score(block, r, key) - largest);
      total += weight;
      for (int64_t d = 0; d < block.width; ++d) sum[d] += weight * block.values[key * block.width + d];
    }
    for (int64_t d = 0; d < block.width; ++d) block.out[r][d] = static_cast<float>(sum[d] / total);
  }
}

void prepare(const HeadInput& input, const float* x, int64_t width, float* out) {
  double squares = 0;
  for (int64_t d = 0; d < width; ++d) squares += static_cast<double>(x[d]) * x[d];
  const double root = input.norm ? std::sqrt(squares / static_cast<double>(width) + input.epsilon) : 1;
  for (int64_t d = 0; d < width; ++d)
    out[d] = static_cast<float>(x[d] * input.scale / root * (input.norm ? input.norm[d] : 1));
  const int64_t half = input.rotated / 2, next = input.interleaved ? 1 : half;
  for (int64_t i = 0; i < half; ++i) {
    float* pair = out + (input.interleaved ? 2 * i : i);
    const double a = pair[0], b = pair[next];
    pair[0] = static_cast<float>(a * input.cos[i] - b * input.sin[i]);
    pair[next] = static_cast<float>(b * input.cos[i] + a * input.sin[i]);
  }
}

template <class A>
constexpr QuantizedKernels quantized{quantized_bytes<A>, quantize<A>, multiply_quantized<A>};

}  // namespace

const Kernels kernels{"reference", multiply, quantized<int8_t>, quantized<int16_t>, activate,
                      {attention_scratch, attend, prepare}};

}  // namespace edgepress::reference
