// The gated activations. All but the error function are g * sigmoid(h) * u, with the exponential of Cephes.
#pragma once

#include <cmath>
#include <initializer_list>

#include "common.h"

namespace {

using edgepress::Activation;
using edgepress::Gate;

constexpr float kTwiceRootTwoOverPi = 1.5957691f;

// e^x to 2 units in the last place, x limited to [-87, 87].
template <class V>
typename V::F exponential(typename V::F x) {
  x = V::min(V::max(x, V::broadcast(-87)), V::broadcast(87));
  const auto kRound = V::broadcast(12582912);  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const auto rounded = V::fma(x, V::broadcast(1.44269504f), kRound);
  const auto n = V::sub(rounded, kRound);
  const auto r = V::fma(n, V::broadcast(2.12194440e-4f), V::fma(n, V::broadcast(-0.693359375f), x));  // x - n ln 2
  auto p = V::broadcast(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
    p = V::fma(p, r, V::broadcast(c));
  return V::times_power(p, rounded);
}

template <class V>
typename V::F gated(const Activation& activation, typename V::F g, typename V::F u) {
  auto h = g;
  if (activation.gate == Gate::gelu_tanh)
    h = V::mul(V::mul(g, V::broadcast(kTwiceRootTwoOverPi)), V::fma(V::mul(g, g), V::broadcast(0.044715f), V::broadcast(1)));
  if (activation.gate == Gate::swiglu_oai) {
    const auto limit = V::broadcast(activation.limit);
    g = V::min(g, limit);
    u = V::add(V::max(V::min(u, limit), V::sub(V::zero(), limit)), V::broadcast(1));
    h = V::mul(g, V::broadcast(activation.alpha));
  }
  return V::mul(V::div(g, V::add(V::broadcast(1), exponential<V>(V::sub(V::zero(), h)))), u);
}

template <class V>
void activate(const Activation& activation, const float* pairs, int64_t count, float* out) {
  if (activation.gate == Gate::gelu) {
    for (int64_t i = 0; i < count; ++i)
      out[i] = 0.5f * pairs[2 * i] * (1 + std::erf(pairs[2 * i] * 0.70710678f)) * pairs[2 * i + 1];
    return;
  }
  for (int64_t i = 0; i < count; i += V::kLanes) {
    alignas(64) float from[2 * V::kLanes] = {}, to[V::kLanes];
    const int64_t some = smaller(V::kLanes, count - i);
    memcpy(from, pairs + 2 * i, static_cast<size_t>(2 * some) * sizeof(float));
    typename V::F gate, up;
    V::load_pairs(from, gate, up);
    V::store(to, gated<V>(activation, gate, up));
    memcpy(out + i, to, static_cast<size_t>(some) * sizeof(float));
  }
}

}  // namespace
