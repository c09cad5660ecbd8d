// AVX-512 with VNNI.
#include <immintrin.h>

#include "body_tiled.h"
#include "variants.h"

namespace {

struct Avx512 {
  static constexpr int kLanes = 16, kTokens = 8, kTileTokens = 6, kFewTokens = 6;
  template <class A>
  static constexpr int kOffset8 = 0;
  using F = __m512;
  using I = __m512i;
  using B = __m512i;

  static __mmask16 first(int64_t count) { return count < kLanes ? (1u << count) - 1 : 0xffff; }

  static F broadcast(float value) { return _mm512_set1_ps(value); }
  static F zero() { return _mm512_setzero_ps(); }
  static I izero() { return _mm512_setzero_si512(); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static F load_half(const uint16_t* p, int64_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p));
  }
  static F load_bfloat(const uint16_t* p, int64_t count) {
    const I wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static F codes(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)); }
  static F nibbles(__m128i packed) {
    const __m128i mask = _mm_set1_epi8(15);
    return codes(_mm_unpacklo_epi8(_mm_and_si128(packed, mask), _mm_and_si128(_mm_srli_epi16(packed, 4), mask)));
  }
  static F codes4(const uint8_t* p) { return nibbles(_mm_loadu_si64(p)); }
  static F codes4(const uint8_t* p, int64_t count) {  // the lane after an odd count is not zero
    return nibbles(_mm_maskz_loadu_epi8(count < kLanes ? first((count + 1) / 2) : 0xff, p));
  }
  static F codes8(const uint8_t* p) { return codes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F codes8(const uint8_t* p, int64_t count) { return codes(_mm_maskz_loadu_epi8(first(count), p)); }
  static void store(float* p, F f) { _mm512_storeu_ps(p, f); }
  static void store(float* p, F f, int64_t count) { _mm512_mask_storeu_ps(p, first(count), f); }

  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static F spread(const float* p, const float* q) {
    const I lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m128 product = _mm_mul_ps(_mm_loadu_ps(p), _mm_loadu_ps(q));
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(product));
  }
  static float sum(F f) { return _mm512_reduce_add_ps(f); }

  static B load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  template <int kBits, class A>
  static I dot(I a, B w, B x) {
    return sizeof(A) == 1 ? _mm512_dpbusd_epi32(a, w, x) : _mm512_dpwssd_epi32(a, w, x);
  }
  template <int kBits>
  static void order_bytes(const uint8_t* from, B& low, B& high) {
    const B a = load_bytes(from);
    if (kBits == 4) {
      const B mask = _mm512_set1_epi8(15);
      const B even = _mm512_and_si512(a, mask), odd = _mm512_and_si512(_mm512_srli_epi16(a, 4), mask);
      low = _mm512_unpacklo_epi8(even, odd);
      high = _mm512_unpackhi_epi8(even, odd);
    } else {
      const B b = load_bytes(from + 64);
      low = _mm512_shuffle_i64x2(a, b, 0x88);   // the even 128-bit lanes
      high = _mm512_shuffle_i64x2(a, b, 0xdd);  // the odd ones
    }
  }
  template <int kBits, class A>
  static void order(const uint8_t* from, B (&codes)[2 * sizeof(A)]) {
    B halves[2];
    order_bytes<kBits>(from, halves[0], halves[1]);
    for (int half = 0; half < 2; ++half)
      if constexpr (sizeof(A) == 1) {
        codes[half] = halves[half];
      } else {
        codes[2 * half] = _mm512_unpacklo_epi8(halves[half], izero());
        codes[2 * half + 1] = _mm512_unpackhi_epi8(halves[half], izero());
      }
  }

  static I dwords(const uint8_t* p) { return _mm512_broadcastd_epi32(_mm_loadu_si32(p)); }
  static B shuffle(B b, const uint8_t* p) {
    return _mm512_shuffle_epi8(b, _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(p))));
  }
  template <class T>
  static I subtract(I a, I b) {
    return sizeof(T) == 1 ? _mm512_sub_epi8(a, b) : sizeof(T) == 2 ? _mm512_sub_epi16(a, b) : _mm512_sub_epi32(a, b);
  }
  template <int kBits, class A>
  static I part(F stored, int i) {
    const I shifted = _mm512_srlv_epi32(_mm512_castps_si512(stored), _mm512_set1_epi32(i * kBits));
    constexpr int kMask = (1 << kBits) - 1;
    return _mm512_and_si512(shifted, sizeof(A) == 1 ? _mm512_set1_epi8(kMask) : _mm512_set1_epi16(kMask));
  }
  static void transpose(F (&rows)[16]) {
    F pairs[16];
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    F fours[4][4];  // [column % 4][row / 4]: columns c, c + 4, c + 8, c + 12 of four rows
    for (int i = 0; i < 4; ++i)
      for (int high = 0; high < 2; ++high) {
        const __m512d a = _mm512_castps_pd(pairs[4 * i + high]), b = _mm512_castps_pd(pairs[4 * i + 2 + high]);
        fours[2 * high][i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        fours[2 * high + 1][i] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
      }
    for (int c = 0; c < 4; ++c) {
      const F* f = fours[c];
      const F low = _mm512_shuffle_f32x4(f[0], f[1], 0x88), low2 = _mm512_shuffle_f32x4(f[2], f[3], 0x88);
      const F high = _mm512_shuffle_f32x4(f[0], f[1], 0xdd), high2 = _mm512_shuffle_f32x4(f[2], f[3], 0xdd);
      rows[c] = _mm512_shuffle_f32x4(low, low2, 0x88);
      rows[c + 4] = _mm512_shuffle_f32x4(high, high2, 0x88);
      rows[c + 8] = _mm512_shuffle_f32x4(low, low2, 0xdd);
      rows[c + 12] = _mm512_shuffle_f32x4(high, high2, 0xdd);
    }
  }
};

}  // namespace

const Kernels edgepress::avx512vnni::kernels = make_tiled_kernels<Avx512>("avx512vnni");
