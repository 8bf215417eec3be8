// IEEE half precision as 16 bits, for compilers and processors without a half type.
#pragma once

#include "config.hpp"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace afdet {

// The bits of a half. A separate type, so that overloads distinguish it from an integer.
struct Half {
  uint16_t bits;
};

// Exact. NaN stays NaN; subnormals are kept.
AFDET_HD float to_float(Half half) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(half.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  const uint32_t rest = half.bits & 0x7FFFu;
  if (rest >= 0x7C00u) return bits_float(sign | 0x7F800000u | ((rest & 0x3FFu) << 13));
  // A multiplication by 2^(127 - 15) rebases the exponent, also of subnormals.
  return bits_float(sign | float_bits(mul(bits_float(rest << 13), 0x1p112f)));
#endif
}

AFDET_HD float to_float(float value) { return value; }

// To nearest, ties to even; overflow gives infinity.
AFDET_HD Half to_half(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t bits = float_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t rest = bits & 0x7FFFFFFFu;
  if (rest > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
  if (rest >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};
  if (rest < 0x38800000u) {  // Subnormal or zero: adding 0.5 lets the FPU round at the 24th bit.
    const float rounded = add(bits_float(rest), 0.5f);
    return {static_cast<uint16_t>(sign | (float_bits(rounded) - 0x3F000000u))};
  }
  const uint32_t odd = (rest >> 13) & 1u;
  return {static_cast<uint16_t>(sign | ((rest - 0x38000000u + 0xFFFu + odd) >> 13))};
#endif
}

}  // namespace afdet
