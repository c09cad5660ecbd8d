// What a right `Linear` or `Experts` node computes: in double precision, from OPS.md alone, with how far float32 may be
// off.
#pragma once

#include <cmath>

#include "gemm/half.h"
#include "random_node.h"

struct Expected {
  std::vector<double> value, tolerance;
};

namespace expected {

// A row of activations as a product takes them. `error`: by how much a kernel's may differ.
struct Row {
  std::vector<double> value, error;
};

// Errors of a float sum grow with its length like a random walk, from a few roundings on.
inline double epsilon(int64_t terms) { return 6e-8 * (16 + 4 * std::sqrt(static_cast<double>(terms))); }

inline int packed(const uint8_t* row, int bits, int64_t i) { return row[i * bits / 8] >> i * bits % 8 & ((1 << bits) - 1); }

// 3, 5 and 6 bits are stored as 2 + 1, 4 + 1 and 4 + 2.
inline int code(const uint8_t* row, int bits, int64_t columns, int64_t i) {
  const int low = bits == 3 ? 2 : bits == 8 ? 8 : 4;
  return packed(row, low, i) | (low < bits ? packed(row + columns * low / 8, bits - low, i) << low : 0);
}

struct Weight {
  double value, magnitude;  // of the terms that the value may be computed from
};

inline Weight weight(const StoredBank& b, int64_t matrix, int64_t n, int64_t k) {
  const int64_t row = matrix * b.rows + n, blocks = b.columns / b.block;
  if (b.format.bits == 16) {
    const uint16_t stored = b.weight->as<uint16_t>()[row * b.columns + k];
    const double value = b.format.bfloat ? bfloat_to_float(stored) : half_to_float(stored);
    return {value, std::fabs(value)};
  }
  const int bits = b.format.bits;
  const double scale = half_to_float(b.scales->as<uint16_t>()[row * blocks + k / b.block]);
  const int point_bits = bits == 8 ? 8 : 4;
  const int64_t point_bytes = (blocks * point_bits + 7) / 8;
  const int point = b.zero_points ? packed(b.zero_points->as<uint8_t>() + row * point_bytes, point_bits, k / b.block)
                                  : 1 << (bits - 1);
  return {scale * (code(b.weight->as<uint8_t>() + row * b.columns * bits / 8, bits, b.columns, k) - point),
          std::fabs(scale) * (1 << bits)};
}

// Rounds a row to int8 or int16 per 32 values; a code may be one off where an error may carry a value over a tie.
inline void quantize(Row& row, int64_t level) {
  const double largest_code = level == 2 ? 32767 : 127;
  for (size_t first = 0; first < row.value.size(); first += 32) {
    const size_t end = std::min(first + 32, row.value.size());
    double largest = 0, off = 0;
    for (size_t i = first; i < end; ++i) {
      largest = std::max(largest, std::fabs(row.value[i]));
      off = std::max(off, row.error[i]);
    }
    const float scale = static_cast<float>(largest) / static_cast<float>(largest_code);
    const double off_scale = off > 0 ? off / largest_code + 1e-7 * scale : 0;
    for (size_t i = first; i < end; ++i) {
      const float q = static_cast<float>(row.value[i]) / scale;
      const double c = std::isfinite(q) ? std::fmax(-largest_code, std::fmin(largest_code, std::nearbyint(q))) : 0;
      const double off_q = off > 0 ? (row.error[i] + std::fabs(c) * off_scale) / scale + 1e-7 * largest_code : 0;
      const bool sure = std::fabs(q - c) + off_q < 0.5;  // of the code
      row.value[i] = c * scale;
      if (off > 0) row.error[i] = sure ? std::fabs(c) * off_scale : row.error[i] + scale + off_scale;
    }
  }
}

// The largest of the 32 values that value i is rounded with.
inline double largest_beside(const Row& x, size_t i) {
  double largest = 0;
  for (size_t j = i / 32 * 32; j < std::min(i / 32 * 32 + 32, x.value.size()); ++j)
    largest = std::max(largest, std::fabs(x.value[j]));
  return largest;
}

// Row n of a matrix times x, and its error. Of blocks of 16 a kernel may know the sum of one as that of 32 values less
// that of the other, whose roundings then count.
inline Weight product(const StoredBank& b, int64_t matrix, int64_t n, const Row& x) {
  Weight sum{0, 0};
  for (int64_t k = 0; k < b.columns; ++k) {
    const Weight w = weight(b, matrix, n, k);
    const size_t i = static_cast<size_t>(k);
    if (b.block < 32 && b.zero_points) sum.magnitude += 6e-8 * w.magnitude * largest_beside(x, i);
    sum.value += w.value * x.value[i];
    sum.magnitude += epsilon(b.columns) * w.magnitude * std::fabs(x.value[i]) + std::fabs(w.value) * x.error[i];
  }
  return sum;
}

inline Row row_of(const OrtValue& x, int64_t t, int64_t columns) {
  Row row{{}, std::vector<double>(static_cast<size_t>(columns))};
  for (int64_t k = 0; k < columns; ++k) row.value.push_back(x.as<float>()[t * columns + k]);
  return row;
}

inline Row rounded(Row row, const StoredBank& for_bank, int64_t level) {
  if (level && for_bank.format.bits < 16) quantize(row, level);
  return row;
}

inline double activation(const RandomNode& node, double g, double u) {
  const auto name = node.attribute<std::string>("activation");
  if (name == "silu") return g / (1 + std::exp(-g)) * u;
  if (name == "gelu") return 0.5 * g * std::erfc(-g * std::sqrt(0.5)) * u;
  if (name == "gelu_tanh") return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
  const double limit = node.attribute<float>("limit"), alpha = node.attribute<float>("alpha");
  g = std::fmin(g, limit);
  u = std::fmax(-limit, std::fmin(limit, u));
  return (u + 1) * g / (1 + std::exp(-alpha * g));
}

inline Row hidden(const RandomNode& node, int64_t expert, const Row& x, int64_t level) {
  const auto map = node.attribute<std::vector<int64_t>>("gate_up_map");
  const StoredBank& bank = node.gate_up[static_cast<size_t>(map[static_cast<size_t>(2 * expert)])];
  const int64_t matrix = map[static_cast<size_t>(2 * expert + 1)];
  const Row in = rounded(x, bank, level);
  Row out;
  for (int64_t i = 0; i < bank.rows; i += 2) {
    Weight gate = product(bank, matrix, i, in), up = product(bank, matrix, i + 1, in);
    if (node.gate_up_bias) {
      gate.value += node.gate_up_bias->as<float>()[expert * bank.rows + i];
      up.value += node.gate_up_bias->as<float>()[expert * bank.rows + i + 1];
    }
    const double g = std::fabs(gate.value), u = std::fabs(up.value);
    out.value.push_back(activation(node, gate.value, up.value));
    // No activation is steeper than 1.2 in its gate; up enters as u or u + 1; a few roundings of either.
    out.error.push_back(1.2 * (gate.magnitude + 4e-7 * g) * (u + up.magnitude + 1) + g * (up.magnitude + 4e-7 * u));
  }
  return out;
}

inline void add_expert(const RandomNode& node, double route, int64_t expert, const Row& x, int64_t level, double* value,
                       double* tolerance) {
  const auto map = node.attribute<std::vector<int64_t>>("down_map");
  const StoredBank& bank = node.down[static_cast<size_t>(map[static_cast<size_t>(2 * expert)])];
  const Row in = rounded(hidden(node, expert, x, level), bank, level);
  for (int64_t r = 0; r < bank.rows; ++r) {
    Weight sum = product(bank, map[static_cast<size_t>(2 * expert + 1)], r, in);
    if (node.down_bias) sum.value += node.down_bias->as<float>()[expert * bank.rows + r];
    value[r] += route * sum.value;
    tolerance[r] += std::fabs(route) * (sum.magnitude + 4e-7 * std::fabs(sum.value));
  }
}

inline Expected of_experts(const RandomNode& node) {
  const OrtValue &x = *node.inputs[0], &weights = *node.inputs[1];
  const int64_t columns = x.shape[1], k = weights.shape[1];
  const auto size = static_cast<size_t>(x.count);
  Expected out{std::vector<double>(size), std::vector<double>(size)};
  for (int64_t i = 0; i < weights.count; ++i) {
    const double route = weights.as<float>()[i];
    const int64_t at = i / k * columns;
    if (route != 0)
      add_expert(node, route, node.inputs[2]->as<int64_t>()[i], row_of(x, i / k, columns),
                 node.attribute<int64_t>("accuracy_level"), &out.value[at], &out.tolerance[at]);
  }
  return out;
}

inline Expected of_linear(const RandomNode& node) {
  const StoredBank& bank = node.down[0];
  const OrtValue& x = *node.inputs[0];
  Expected out;
  const int64_t tokens = edgepress::element_count({x.shape.begin(), x.shape.end() - 1});
  for (int64_t t = 0; bank.rows && t < tokens; ++t) {
    const Row in = rounded(row_of(x, t, bank.columns), bank, node.attribute<int64_t>("accuracy_level"));
    for (int64_t r = 0; r < bank.rows; ++r) {
      const Weight sum = product(bank, 0, r, in);
      const double bias = node.down_bias ? node.down_bias->as<float>()[r] : 0;
      out.value.push_back(sum.value + bias);
      out.tolerance.push_back(sum.magnitude + 1e-7 * std::fabs(sum.value + bias));
    }
  }
  return out;
}

}  // namespace expected
