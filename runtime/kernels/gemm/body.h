// The micro-kernels of a variant, from its vectors.
#pragma once

#include "body_activation.h"
#include "body_attention.h"
#include "body_float.h"
#include "body_quantized.h"

namespace {

using edgepress::Kernels;
using edgepress::QuantizedKernels;

template <class V, class A>
constexpr QuantizedKernels make_quantized() {
  return {quantized_bytes<V, A>, quantize<V, A>, multiply_quantized<V, A>};
}

template <class V>
constexpr Kernels make_kernels(const char* name) {
  return {name, multiply<V>, make_quantized<V, int8_t>(), make_quantized<V, int16_t>(), activate<V>, make_attention<V>()};
}

}  // namespace
