// The gated activations of an expert.
#pragma once

#include <cmath>
#include <string>

#include "op.h"

namespace edgepress {

class Activation {
 public:
  explicit Activation(const Node& node) : alpha_(node.real("alpha", 1.702f)), limit_(node.real("limit", 7)) {
    const std::string name = node.text("activation", "silu");
    if (name == "silu") apply_ = [](float g, float u, const Activation&) { return g / (1 + std::exp(-g)) * u; };
    if (name == "gelu") apply_ = [](float g, float u, const Activation&) { return gelu(g) * u; };
    if (name == "gelu_tanh") apply_ = [](float g, float u, const Activation&) { return gelu_tanh(g) * u; };
    if (name == "swiglu_oai") apply_ = [](float g, float u, const Activation& a) { return a.swiglu_oai(g, u); };
    if (!apply_) throw Error("activation must be silu, gelu, gelu_tanh or swiglu_oai, not '" + name + "'");
  }

  float operator()(float gate, float up) const { return apply_(gate, up, *this); }

 private:
  static float gelu(float g) { return 0.5f * g * (1 + std::erf(g * 0.70710678f)); }

  static float gelu_tanh(float g) {
    return 0.5f * g * (1 + std::tanh(0.79788456f * (g + 0.044715f * g * g * g)));  // sqrt(2 / pi)
  }

  float swiglu_oai(float g, float u) const {
    g = g > limit_ ? limit_ : g;
    u = u > limit_ ? limit_ : u < -limit_ ? -limit_ : u;
    return (u + 1) * g / (1 + std::exp(-alpha_ * g));
  }

  float (*apply_)(float gate, float up, const Activation&) = nullptr;
  float alpha_, limit_;
};

}  // namespace edgepress
