// The gated activation that a node asks for.
#pragma once

#include <string>

#include "gemm/gemm.h"
#include "op.h"

namespace edgepress {

inline Activation activation(const Node& node) {
  const std::string name = node.text("activation", "silu");
  const auto gate = name == "silu"         ? Gate::silu
                    : name == "gelu"       ? Gate::gelu
                    : name == "gelu_tanh"  ? Gate::gelu_tanh
                    : name == "swiglu_oai" ? Gate::swiglu_oai
                                           : throw Error("activation must be silu, gelu, gelu_tanh or swiglu_oai, not '" +
                                                         name + "'");
  return {gate, node.real("alpha", 1.702f), node.real("limit", 7)};
}

}  // namespace edgepress
