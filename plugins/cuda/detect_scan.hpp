// The first detection kernel: logits above the threshold -> an unordered list per image and level.
// A template over the block policy (README.md).
#pragma once

#include "cuda/detect_args.hpp"

namespace afdet {

AFDET_HD uint32_t count_bits(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return static_cast<uint32_t>(__popc(word));
#else
  return static_cast<uint32_t>(__builtin_popcount(word));
#endif
}

AFDET_HD uint32_t count_bits(uint64_t word) {
  return count_bits(static_cast<uint32_t>(word)) + count_bits(static_cast<uint32_t>(word >> 32));
}

// Position of the lowest set bit; the word must not be zero.
AFDET_HD int lowest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

AFDET_HD int lowest_bit(uint64_t word) {
  const uint32_t low = static_cast<uint32_t>(word);
  return low != 0 ? lowest_bit(low) : 32 + lowest_bit(static_cast<uint32_t>(word >> 32));
}

// The logits of one level of one image, [K, H, W].
template <typename T>
class Logits {
  struct alignas(16) Vector {
    static constexpr int kSize = 16 / sizeof(T);
    T values[kSize];
  };
  static constexpr int kVectors = kLoadBytes / 16;

 public:
  // Logits that a thread loads at a time, each with one bit of a word.
  static constexpr int kPerThread = kVectors * Vector::kSize;
  static_assert(kPerThread <= 32, "a word has 32 bits");

  AFDET_HD Logits(const DetectArgs& args, int level, int image)
      : params_(args.params),
        level_(level),
        pairs_(static_cast<uint32_t>(args.params.pairs(level))),
        values_(static_cast<const T*>(args.heads[level]) +
                static_cast<size_t>(image) * static_cast<size_t>(args.params.pairs(level))),
        // An image starts where the previous one ends, so its start may be unaligned for vectors.
        aligned_(reinterpret_cast<uintptr_t>(values_) % sizeof(Vector) == 0 &&
                 pairs_ % Vector::kSize == 0) {}

  AFDET_HD uint32_t pairs() const { return pairs_; }

  // The logit's index for bit `bit` of a thread's result in a chunk.
  template <int kThreads>
  AFDET_HD uint32_t index(uint32_t chunk, int thread, int bit) const {
    constexpr uint32_t kChunk = kThreads * kPerThread;
    const int vector = bit / Vector::kSize;
    return chunk * kChunk + static_cast<uint32_t>((vector * kThreads + thread) * Vector::kSize +
                                                  bit % Vector::kSize);
  }

  // Sets a bit for each of the thread's logits of a chunk above the threshold, never for NaN.
  template <int kThreads>
  AFDET_HD uint32_t find(uint32_t chunk, int thread) const {
    Vector vectors[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t start = index<kThreads>(chunk, thread, v * Vector::kSize);
      vectors[v] = Vector{};
      if (aligned_) {
        if (start < pairs_) vectors[v] = *reinterpret_cast<const Vector*>(values_ + start);
      } else {
        for (uint32_t i = 0; i < Vector::kSize; ++i) {
          if (start + i < pairs_) vectors[v].values[i] = values_[start + i];
        }
      }
    }
    uint32_t found = 0;
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t start = index<kThreads>(chunk, thread, v * Vector::kSize);
      const uint32_t inside = start < pairs_ ? pairs_ - start : 0;
      uint32_t above = 0;
      for (int i = 0; i < Vector::kSize; ++i) {
        above |= static_cast<uint32_t>(to_float(vectors[v].values[i]) > params_.logit_threshold)
                 << i;
      }
      if (inside < Vector::kSize) above &= (1u << inside) - 1u;
      found |= above << (v * Vector::kSize);
    }
    return found;
  }

  // The key of the candidate at an index.
  AFDET_HD Key key(uint32_t index) const {
    const uint32_t points = static_cast<uint32_t>(params_.levels[level_].points());
    const uint32_t class_id = index / points;
    const uint32_t point = index - class_id * points;
    return make_key(to_float(values_[index]), level_,
                    point * static_cast<uint32_t>(params_.num_classes) + class_id);
  }

 private:
  const DecodeParams& params_;
  int level_;
  uint32_t pairs_;
  const T* values_;
  bool aligned_;
};

struct ScanShared {
  uint32_t start;
};

// Grid: (all levels' chunks, images).
template <typename T, typename Block>
AFDET_BODY void scan(Block& block, const DetectArgs& args) {
  const int image = block.y();
  int chunk = block.x();
  int level = 0;
  while (chunk >= args.chunks[level]) chunk -= args.chunks[level++];
  const Logits<T> logits(args, level, image);
  const uint32_t place = static_cast<uint32_t>(chunk);

  typename Block::template PerThread<uint32_t> found(block);
  typename Block::template PerThread<int32_t> before(block);
  block.for_threads([&](int thread) {
    found[thread] = logits.template find<Block::kThreads>(place, thread);
    before[thread] = static_cast<int32_t>(count_bits(found[thread]));
  });
  const int32_t total = block.exclusive_sum(before);
  if (total == 0) return;

  block.for_threads([&](int thread) {
    if (thread == 0) {
      block.shared().start = Block::add(count_of(args, level, image), static_cast<uint32_t>(total));
    }
  });
  const uint32_t start = block.read(block.shared().start);
  const uint32_t capacity = static_cast<uint32_t>(args.capacity[level]);
  Key* list = list_of(args, level, image);
  block.for_threads([&](int thread) {
    uint32_t position = start + static_cast<uint32_t>(before[thread]);
    for (uint32_t bits = found[thread]; bits != 0 && position < capacity; bits &= bits - 1) {
      list[position++] =
          logits.key(logits.template index<Block::kThreads>(place, thread, lowest_bit(bits)));
    }
  });
}

}  // namespace afdet
