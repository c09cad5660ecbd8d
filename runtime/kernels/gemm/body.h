// The micro-kernels of a variant, from its vectors.
#pragma once

#include "body_float.h"
#include "body_int8.h"

namespace {

using edgepress::Kernels;

template <class V>
constexpr Kernels make_kernels(const char* name) {
  return {name, quantized_bytes<V>, quantize<V>, multiply<V>, multiply_quantized<V>};
}

}  // namespace
