// The candidate key: one unsigned number that defines the total order of candidates.
#pragma once

#include "config.hpp"

namespace afdet {

// From the highest bit: the logit, encoded so that better is smaller (32 bits), the level (3 bits),
// the rank = point * classes + class (29 bits). Ascending keys are therefore sorted by (logit
// descending, level, point, class ascending). All candidates of an image have different keys.
using Key = uint64_t;

constexpr int kLevelBits = 3;
constexpr int kRankBits = 29;
constexpr uint32_t kMaxRanks = 1u << kRankBits;

// Larger than every candidate's key: its logit would be a NaN.
constexpr Key kNoKey = ~Key{0};

// Bits that decrease as the logit increases. Zero and minus zero are the same logit, so adding zero
// merges them. The logit must not be NaN.
AFDET_HD uint32_t falling_bits(float logit) {
  const uint32_t bits = float_bits(add(logit, 0.0f));
  return (bits & 0x80000000u) ? bits : (~bits & 0x7FFFFFFFu);
}

AFDET_HD float falling_logit(uint32_t falling) {
  return bits_float((falling & 0x80000000u) ? falling : (~falling & 0x7FFFFFFFu));
}

AFDET_HD Key make_key(float logit, int level, uint32_t rank) {
  return (static_cast<Key>(falling_bits(logit)) << 32) |
         (static_cast<uint32_t>(level) << kRankBits) | rank;
}

AFDET_HD float key_logit(Key key) { return falling_logit(static_cast<uint32_t>(key >> 32)); }
AFDET_HD int key_level(Key key) { return static_cast<int>((key >> kRankBits) & 7u); }
AFDET_HD uint32_t key_rank(Key key) { return static_cast<uint32_t>(key) & (kMaxRanks - 1u); }

}  // namespace afdet
