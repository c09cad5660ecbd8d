// What the NEON variants share.
#pragma once

#include <arm_neon.h>

#include "body.h"
#include "variants.h"

namespace {

struct Neon {
  static constexpr int kLanes = 4, kTokens = 8;
  using F = float32x4_t;
  using I = int32x4_t;
  using B = int8x16_t;

  // The first `count` values of p, and zeros.
  template <class T>
  struct First {
    T values[kLanes] = {};
    First(const T* p, int64_t count) { memcpy(values, p, static_cast<size_t>(smaller(kLanes, count)) * sizeof(T)); }
  };

  static F broadcast(float value) { return vdupq_n_f32(value); }
  static F zero() { return vdupq_n_f32(0); }
  static I izero() { return vdupq_n_s32(0); }
  static F load(const float* p) { return vld1q_f32(p); }
  static F load(const float* p, int64_t count) { return vld1q_f32(count < kLanes ? First(p, count).values : p); }
  static uint16x4_t load_16(const uint16_t* p, int64_t count) {
    return vld1_u16(count < kLanes ? First(p, count).values : p);
  }
  static F load_half(const uint16_t* p, int64_t count) {
    return vcvt_f32_f16(vreinterpret_f16_u16(load_16(p, count)));
  }
  static F load_bfloat(const uint16_t* p, int64_t count) {
    return vreinterpretq_f32_u32(vshll_n_u16(load_16(p, count), 16));
  }
  static F codes(uint8x8_t bytes) { return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))); }
  static F codes4(const uint8_t* p) {
    uint16_t stored;
    memcpy(&stored, p, sizeof stored);
    const uint8x8_t packed = vreinterpret_u8_u16(vdup_n_u16(stored));
    return codes(vzip1_u8(vand_u8(packed, vdup_n_u8(15)), vshr_n_u8(packed, 4)));
  }
  static F codes4(const uint8_t* p, int64_t count) {
    return codes4(count < kLanes ? First(p, (count + 1) / 2).values : p);
  }
  static F codes8(const uint8_t* p) {
    uint32_t stored;
    memcpy(&stored, p, sizeof stored);
    return codes(vreinterpret_u8_u32(vdup_n_u32(stored)));
  }
  static F codes8(const uint8_t* p, int64_t count) { return codes8(count < kLanes ? First(p, count).values : p); }
  static void store(float* p, F f) { vst1q_f32(p, f); }

  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F to_float(I a) { return vcvtq_f32_s32(a); }
  static F spread(const float* p, const float* q) { return vdupq_n_f32(*p * *q); }
  static float sum(F f) { return vaddvq_f32(f); }

  static B load_bytes(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
  static I dot_words(I a, B w, B x) {
    const int16x8_t codes = vreinterpretq_s16_s8(w), values = vreinterpretq_s16_s8(x);
    return vmlal_high_s16(vmlal_s16(a, vget_low_s16(codes), vget_low_s16(values)), codes, values);
  }
  template <int kBits, class A>
  static void order(const uint8_t* from, B (&codes)[2 * sizeof(A)]) {
    uint8x16_t halves[2];
    if (kBits == 4) {
      const uint8x16_t packed = vld1q_u8(from), even = vandq_u8(packed, vdupq_n_u8(15)), odd = vshrq_n_u8(packed, 4);
      halves[0] = vzip1q_u8(even, odd);
      halves[1] = vzip2q_u8(even, odd);
    } else {
      halves[0] = vld1q_u8(from);
      halves[1] = vld1q_u8(from + 16);
    }
    for (int half = 0; half < 2; ++half)
      if constexpr (sizeof(A) == 1) {
        codes[half] = vreinterpretq_s8_u8(halves[half]);
      } else {
        codes[2 * half] = vreinterpretq_s8_u16(vmovl_u8(vget_low_u8(halves[half])));
        codes[2 * half + 1] = vreinterpretq_s8_u16(vmovl_high_u8(halves[half]));
      }
  }
};

}  // namespace
