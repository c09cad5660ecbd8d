#pragma once

#include "bank.h"

namespace edgepress {

// A dense matrix product with stored weights; see OPS.md.
class Linear {
 public:
  static constexpr const char* name = "Linear";
  static constexpr Input inputs[] = {{TYPE_FLOAT}, {TYPE_UNDEFINED, INPUT_VARIADIC}};
  static constexpr ONNXTensorElementDataType outputs[] = {TYPE_FLOAT};

  explicit Linear(const Node& node);
  void compute(const Context& call) const;

 private:
  const Kernels& kernels_;
  BankFormat format_;
  int block_;
  bool biased_;
  const QuantizedKernels* quantized_;  // null for float activations
};

}  // namespace edgepress
