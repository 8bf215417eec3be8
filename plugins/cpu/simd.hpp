// The two inner loops, in a form that compilers vectorise, once per instruction set. detect.cpp
// includes this file several times, so it has no include guard.
//
//   AFDET_SIMD_NAMESPACE  the namespace of this copy
//   AFDET_SIMD_TARGET     the attribute that lets the compiler use the instruction set

namespace afdet {
namespace AFDET_SIMD_NAMESPACE {

// The first block from `block` on that contains a candidate, and a bit for each candidate in it; or
// `blocks`. Candidates are the values v with low < v, or low <= v if or_equal, but never NaN.
AFDET_SIMD_TARGET inline size_t find_block(const float* values, size_t block, size_t blocks,
                                           float low, bool or_equal, uint32_t* found) {
  for (; block < blocks; ++block) {
    const float* logits = values + block * kScanBlock;
    uint32_t mask = 0;
    if (or_equal) {
      for (int i = 0; i < kScanBlock; ++i) mask |= logits[i] >= low ? kBits[i] : 0u;
    } else {
      for (int i = 0; i < kScanBlock; ++i) mask |= logits[i] > low ? kBits[i] : 0u;
    }
    if (mask != 0) {
      *found = mask;
      break;
    }
  }
  return block;
}

// The same for halves in their integer order; see half_order.
AFDET_SIMD_TARGET inline size_t find_block(const Half* values, size_t block, size_t blocks,
                                           int16_t low, bool or_equal, uint32_t* found) {
  // low is at least the order of minus infinity, so it cannot wrap.
  const int16_t above = static_cast<int16_t>(or_equal ? low - 1 : low);
  for (; block < blocks; ++block) {
    const Half* logits = values + block * kScanBlock;
    int16_t any = 0;
    for (int i = 0; i < kScanBlock; ++i) {
      const int16_t order = half_order(logits[i]);
      any |= static_cast<int16_t>((order > above) & (order <= kHalfInfinity));
    }
    if (any == 0) continue;
    // A separate loop collects the bits, because compilers would not vectorise a combined one.
    uint32_t mask = 0;
    for (int i = 0; i < kScanBlock; ++i) {
      const int16_t order = half_order(logits[i]);
      mask |= static_cast<uint32_t>((order > above) & (order <= kHalfInfinity)) << i;
    }
    *found = mask;
    break;
  }
  return block;
}

// Whether a box of the group overlaps the candidate. Empty slots hold a box without area at the
// origin, which never overlaps.
AFDET_SIMD_TARGET inline bool any_overlaps(const KeptBlock& kept, const Box& box, float box_area,
                                           float threshold) {
  int32_t any = 0;
  for (int i = 0; i < kKeptBlock; ++i) {
    const Box other{kept.x1[i], kept.y1[i], kept.x2[i], kept.y2[i]};
    any |= overlaps(other, kept.area[i], box, box_area, threshold) ? 1 : 0;
  }
  return any != 0;
}

}  // namespace AFDET_SIMD_NAMESPACE
}  // namespace afdet
