// Banks (OPS.md) as a node describes them and as a call finds them.
#pragma once

#include <string>
#include <vector>

#include "gemm/gemm.h"
#include "op.h"

namespace edgepress {

// How a bank is stored, from a node's attributes.
struct BankFormat {
  int bits;
  bool asymmetric;

  size_t tensors() const { return bits == 16 ? 1 : asymmetric ? 3 : 2; }
};

// Throws Error unless bits is 3, 4, 5, 6, 8 or 16, and zero points are those of 3, 4 or 8 bits.
BankFormat bank_format(int64_t bits, int64_t asymmetric);

// The attribute block_size: 16, 32, 64 or 128.
int block_size(const Node& node);

// The kernels for activations quantized as the attribute accuracy_level asks (2: int16, 4: int8), null for float
// activations (0); throws Error at any other level.
const QuantizedKernels* quantized_kernels(const Node& node, const Kernels& kernels);

// A stack of `count` matrices.
struct Bank {
  Matrix first;
  int64_t count;

  Matrix matrix(int64_t index) const;
};

// Reads the tensors of a bank of `count` matrices [rows, columns] from inputs `index` and on, and moves `index` past
// them. Negative sizes are read from the weight tensor. A dense matrix is a bank without its first axis (`stacked`
// false). Throws Error where types or shapes do not match.
Bank read_bank(const Context& call, size_t& index, const std::string& what, BankFormat format, int block, bool stacked,
               int64_t rows, int64_t columns);

}  // namespace edgepress
