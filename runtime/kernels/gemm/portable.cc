// Plain C++ with the lanes of AVX-512, in loops that a compiler vectorizes for any instruction set.
#include "body.h"
#include "variants.h"

namespace {

struct Portable {
  static constexpr int kLanes = 16, kOffset8 = 0, kTokens = 4;
  struct F {
    float lane[kLanes];
  };
  struct I {
    int32_t lane[kLanes];
  };
  struct B {
    uint8_t byte[4 * kLanes];
  };

  template <class Value>
  static F lanes(Value value) {
    F f;
    for (int i = 0; i < kLanes; ++i) f.lane[i] = value(i);
    return f;
  }

  static F broadcast(float value) {
    return lanes([&](int) { return value; });
  }
  static F zero() { return broadcast(0); }
  static I izero() { return {}; }
  static F load(const float* p, int64_t count = kLanes) {
    return lanes([&](int i) { return i < count ? p[i] : 0; });
  }
  static F load_half(const uint16_t* p, int64_t count) {
    return lanes([&](int i) { return i < count ? half_to_float(p[i]) : 0; });
  }
  static F load_bfloat(const uint16_t* p, int64_t count) {
    return lanes([&](int i) { return i < count ? bfloat_to_float(p[i]) : 0; });
  }
  static F codes4(const uint8_t* p, int64_t count = kLanes) {
    return lanes([&](int i) { return i < count ? static_cast<float>(p[i / 2] >> (i % 2 * 4) & 15) : 0; });
  }
  static F codes8(const uint8_t* p, int64_t count = kLanes) {
    return lanes([&](int i) { return i < count ? static_cast<float>(p[i]) : 0; });
  }
  static void store(float* p, F f) { memcpy(p, f.lane, sizeof f); }

  static F mul(F a, F b) {
    return lanes([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F sub(F a, F b) {
    return lanes([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F fma(F a, F b, F c) {
    return lanes([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static F to_float(I a) {
    return lanes([&](int i) { return static_cast<float>(a.lane[i]); });
  }
  static F spread(const float* p, const float* q) {
    return lanes([&](int i) { return p[i / 4] * q[i / 4]; });
  }
  static float sum(F f) {
    for (int width = kLanes / 2; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) f.lane[i] += f.lane[i + width];
    return f.lane[0];
  }

  static B load_bytes(const void* p) {
    B b;
    memcpy(b.byte, p, sizeof b);
    return b;
  }
  template <int kBits>
  static I dot(I a, B w, B x) {
    for (int unit = 0; unit < kLanes; unit += 4) {  // 16 products; their order within a unit's lanes does not matter
      int16_t products[16];
      for (int j = 0; j < 16; ++j)
        products[j] = static_cast<int16_t>(w.byte[4 * unit + j] * static_cast<int8_t>(x.byte[4 * unit + j]));
      for (int i = 0; i < 4; ++i)
        a.lane[unit + i] += products[i] + products[4 + i] + products[8 + i] + products[12 + i];
    }
    return a;
  }
  template <int kBits>
  static void order(const uint8_t* from, B& low, B& high) {
    for (int unit = 0; unit < kLanes / 4; ++unit) {
      uint8_t codes[kUnit];
      for (int i = 0; i < 16; ++i) {
        const uint8_t byte = from[unit * 16 + i];
        codes[2 * i] = byte & 15;
        codes[2 * i + 1] = byte >> 4;
      }
      const uint8_t* ordered = kBits == 4 ? codes : from + unit * kUnit;
      memcpy(low.byte + unit * 16, ordered, 16);
      memcpy(high.byte + unit * 16, ordered + 16, 16);
    }
  }
};

}  // namespace

const Kernels edgepress::portable::kernels = make_kernels<Portable>("portable");
