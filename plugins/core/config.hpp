// Used by every core header: the qualifiers, and arithmetic that rounds after every operation.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__FAST_MATH__)
#error \
    "afdet must not be compiled with fast-math: NaN, infinity and rounding are part of the result"
#endif

#if defined(__CUDACC__)
#define AFDET_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define AFDET_HD inline __attribute__((always_inline))
#else
#define AFDET_HD inline
#endif

namespace afdet {

// Products and sums that compilers must not fuse: a fused multiply-add rounds once, the reference
// rounds twice. On the host, the build sets -ffp-contract=off.
AFDET_HD float mul(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

AFDET_HD float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

AFDET_HD float sub(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fsub_rn(a, b);
#else
  return a - b;
#endif
}

AFDET_HD float div(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

AFDET_HD float minimum(float a, float b) { return b < a ? b : a; }
AFDET_HD float maximum(float a, float b) { return a < b ? b : a; }

AFDET_HD uint32_t float_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

AFDET_HD float bits_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

}  // namespace afdet
