// The three detection kernels, written against a block policy (block_cuda.cuh, block_host.hpp).
//
//   scan      logits above the threshold -> an unordered list per image and level
//   select    the list's best candidates, in order
//   suppress  the levels' candidates merged, decoded and suppressed, best first, until enough are
//             kept
//
// Rules of the policy: threads meet at the end of each for_threads; outside of it all threads do
// the same, and shared memory is read through block.read() only.
#pragma once

#include "cuda/detect_args.hpp"

namespace afdet {

// 16 bytes of logits at once.
template <typename T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

AFDET_HD uint32_t count_bits(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return static_cast<uint32_t>(__popc(word));
#else
  return static_cast<uint32_t>(__builtin_popcount(word));
#endif
}

AFDET_HD int lowest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

template <typename T>
AFDET_HD const T* image_logits(const DetectArgs& args, int level, int image) {
  return static_cast<const T*>(args.heads[level]) +
         static_cast<size_t>(image) * static_cast<size_t>(args.plan.pairs(level));
}

// The key of the logit at an index of [K, H, W].
AFDET_HD Key key_at(const Plan& plan, int level, uint32_t index, float logit) {
  const uint32_t points = static_cast<uint32_t>(plan.levels[level].points());
  const uint32_t class_id = index / points;
  const uint32_t point = index - class_id * points;
  return make_key(logit, level, point * static_cast<uint32_t>(plan.num_classes) + class_id);
}

struct ScanShared {
  uint32_t start;
};

// Grid: (all levels' chunks, images).
template <typename T, typename Block>
AFDET_BODY void scan(Block& block, const DetectArgs& args) {
  using V = Vector<T>;
  constexpr int kVectors = kScanBytes / 16;
  const Plan& plan = args.plan;
  const int image = block.y();
  int chunk = block.x();
  int level = 0;
  while (chunk >= args.chunks[level]) chunk -= args.chunks[level++];
  const T* logits = image_logits<T>(args, level, image);
  const uint32_t pairs = static_cast<uint32_t>(plan.pairs(level));
  const uint32_t first = static_cast<uint32_t>(chunk) * (Block::kThreads * kVectors * V::kSize);
  const float threshold = plan.logit_threshold;
  // An image's logits start where the last one's end, so not always where vectors may.
  const bool aligned =
      reinterpret_cast<uintptr_t>(logits) % sizeof(V) == 0 && pairs % V::kSize == 0;
  const auto start_of = [&](int thread, int vector) {
    return first + static_cast<uint32_t>((vector * Block::kThreads + thread) * V::kSize);
  };

  typename Block::template PerThread<uint32_t> found(block);
  typename Block::template PerThread<int32_t> place(block);
  block.for_threads([&](int thread) {
    V vectors[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t start = start_of(thread, v);
      if (aligned && start < pairs) {
        vectors[v] = *reinterpret_cast<const V*>(logits + start);
      } else {
        for (int i = 0; i < V::kSize; ++i) {
          const uint32_t index = start + static_cast<uint32_t>(i);
          vectors[v].values[i] = logits[index < pairs ? index : 0];
        }
      }
    }
    uint32_t bits = 0;
    for (int v = 0; v < kVectors; ++v) {
      for (int i = 0; i < V::kSize; ++i) {
        const bool inside = start_of(thread, v) + static_cast<uint32_t>(i) < pairs;
        const bool above = to_float(vectors[v].values[i]) > threshold;
        bits |= static_cast<uint32_t>(inside & above) << (v * V::kSize + i);
      }
    }
    found[thread] = bits;
    place[thread] = static_cast<int32_t>(count_bits(bits));
  });
  const int32_t total = block.exclusive_sum(place);
  if (total == 0) return;

  block.for_threads([&](int thread) {
    if (thread == 0) {
      uint32_t* count = args.counts + image * plan.num_levels + level;
      block.shared().start = Block::atomic_add(count, static_cast<uint32_t>(total));
    }
  });
  const uint32_t start = block.read(block.shared().start);
  Key* list = args.lists + static_cast<size_t>(image) * static_cast<size_t>(args.image_keys) +
              args.offset[level];
  const uint32_t capacity = static_cast<uint32_t>(args.capacity[level]);
  block.for_threads([&](int thread) {
    uint32_t position = start + static_cast<uint32_t>(place[thread]);
    for (uint32_t bits = found[thread]; bits != 0 && position < capacity; bits &= bits - 1) {
      const int bit = lowest_bit(bits);
      const uint32_t index =
          start_of(thread, bit / V::kSize) + static_cast<uint32_t>(bit % V::kSize);
      list[position++] = key_at(plan, level, index, to_float(logits[index]));
    }
  });
}

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

struct SelectShared {
  uint32_t histogram[kDigits];
  uint32_t digit;   // in which the last candidate wanted lies
  uint32_t before;  // candidates below that digit
  uint32_t inside;  // candidates of that digit
  uint32_t fill;
};

// Calls the function with every candidate of the level, spread over the threads.
template <typename T, typename Block, typename F>
AFDET_BODY void for_candidates(Block& block, const DetectArgs& args, int level, int image,
                               uint32_t listed, const Key* list, F&& function) {
  const Plan& plan = args.plan;
  if (listed <= static_cast<uint32_t>(args.capacity[level])) {
    block.for_threads([&](int thread) {
      for (uint32_t i = static_cast<uint32_t>(thread); i < listed; i += Block::kThreads) {
        function(list[i]);
      }
    });
    return;
  }
  const T* logits = image_logits<T>(args, level, image);
  const uint32_t pairs = static_cast<uint32_t>(plan.pairs(level));
  block.for_threads([&](int thread) {
    for (uint32_t i = static_cast<uint32_t>(thread); i < pairs; i += Block::kThreads) {
      const float logit = to_float(logits[i]);
      if (logit > plan.logit_threshold) function(key_at(plan, level, i, logit));
    }
  });
}

// Grid: (levels, images). Leaves the best candidates, in order, at the head of the level's list and
// their number in counts.
template <typename T, typename Block>
AFDET_BODY void select(Block& block, const DetectArgs& args) {
  static_assert(kDigits % Block::kThreads == 0, "each thread sums some digits");
  constexpr int kShare = kDigits / Block::kThreads;
  const Plan& plan = args.plan;
  const int level = block.x();
  const int image = block.y();
  SelectShared& shared = block.shared();
  uint32_t* count = args.counts + image * plan.num_levels + level;
  Key* list = args.lists + static_cast<size_t>(image) * static_cast<size_t>(args.image_keys) +
              args.offset[level];
  const uint32_t listed = block.read(*count);
  const uint32_t limit = static_cast<uint32_t>(most_of_level(plan, level));
  const uint32_t most = listed < limit ? listed : limit;
  if (most == 0) return;

  // Radix selection, digit by digit from the top, until exactly the wanted ones have a head of at
  // most `head`.
  int shift = 64;
  Key head = 0;
  uint32_t wanted = most;  // of those whose head is the one found so far
  bool exact = listed == most;
  while (!exact) {
    const int bits = shift < kDigitBits ? shift : kDigitBits;
    const int next = shift - bits;
    block.for_threads([&](int thread) {
      for (int i = thread; i < kDigits; i += Block::kThreads) shared.histogram[i] = 0;
    });
    for_candidates<T>(block, args, level, image, listed, list, [&](Key key) {
      if (shift == 64 || key >> shift == head) {
        const uint32_t digit = static_cast<uint32_t>(key >> next) & ((1u << bits) - 1u);
        Block::atomic_add(&shared.histogram[digit], 1u);
      }
    });
    typename Block::template PerThread<int32_t> before(block);
    block.for_threads([&](int thread) {
      int32_t sum = 0;
      for (int i = 0; i < kShare; ++i) {
        sum += static_cast<int32_t>(shared.histogram[thread * kShare + i]);
      }
      before[thread] = sum;
    });
    block.exclusive_sum(before);
    block.for_threads([&](int thread) {
      uint32_t below = static_cast<uint32_t>(before[thread]);
      for (int i = 0; i < kShare; ++i) {
        const uint32_t inside = shared.histogram[thread * kShare + i];
        if (below < wanted && wanted <= below + inside) {
          shared.digit = static_cast<uint32_t>(thread * kShare + i);
          shared.before = below;
          shared.inside = inside;
        }
        below += inside;
      }
    });
    head = (shift == 64 ? 0 : head << bits) | block.read(shared.digit);
    wanted -= block.read(shared.before);
    exact = block.read(shared.inside) == wanted;
    shift = next;
  }

  Key* keys = block.keys();
  block.for_threads([&](int thread) {
    for (int i = thread; i < Block::kSortKeys; i += Block::kThreads) keys[i] = kNoKey;
    if (thread == 0) shared.fill = 0;
  });
  for_candidates<T>(block, args, level, image, listed, list, [&](Key key) {
    if (shift == 64 || key >> shift <= head) keys[Block::atomic_add(&shared.fill, 1u)] = key;
  });
  block.sort();
  block.for_threads([&](int thread) {
    for (uint32_t i = static_cast<uint32_t>(thread); i < most; i += Block::kThreads) {
      list[i] = keys[i];
    }
    if (thread == 0) *count = most;
  });
}

// Candidates that are suppressed among themselves at a time.
constexpr int kHelping = 256;
constexpr int kHelpingWords = kHelping / 32;

struct SuppressShared {
  Key window[AFDET_MAX_LEVELS * kHelping];
  Key keys[kHelping];
  KeptBox boxes[kHelping];
  uint32_t overlap[kHelpingWords][kHelping];
  bool near_kept[kSuppressThreads];
  uint32_t alive[kSuppressThreads / 32];
  uint32_t again[kSuppressThreads / 32];
  uint32_t taken[AFDET_MAX_LEVELS];
  uint32_t ready;
  KeptBox kept[kSharedKept];
};

// How many of the ascending keys are below the given one.
AFDET_HD int keys_below(const Key* keys, Key key) {
  int below = 0;
  for (int step = kHelping / 2; step > 0; step /= 2) {
    if (keys[below + step - 1] < key) below += step;
  }
  return keys[below] < key ? below + 1 : below;
}

// Grid: (images).
template <typename T, typename Block>
AFDET_BODY void suppress(Block& block, const DetectArgs& args) {
  const Plan& plan = args.plan;
  const int image = block.x();
  const int levels = plan.num_levels;
  const int most = plan.max_detections;
  SuppressShared& shared = block.shared();
  const Key* lists = args.lists + static_cast<size_t>(image) * static_cast<size_t>(args.image_keys);
  const uint32_t* counts = args.counts + image * levels;
  const size_t first_row = static_cast<size_t>(image) * static_cast<size_t>(most);
  KeptBox* kept = most <= kSharedKept ? shared.kept : args.kept + first_row;
  float* boxes = args.out.boxes + first_row * 4;
  float* scores = args.out.scores + first_row;
  int32_t* classes = args.out.classes + first_row;

  block.for_threads([&](int thread) {
    if (thread < levels) shared.taken[thread] = 0;
  });
  int count = 0;
  while (count < most) {
    // The next helping: each level's next keys, merged by rank.
    block.for_threads([&](int thread) {
      for (int i = thread; i < levels * kHelping; i += Block::kThreads) {
        const int level = i / kHelping;
        const uint32_t place = shared.taken[level] + static_cast<uint32_t>(i % kHelping);
        const Key* list = lists + args.offset[level];
        shared.window[i] = place < counts[level] ? list[place] : kNoKey;
      }
      if (thread == 0) shared.ready = 0;
    });
    block.for_threads([&](int thread) {
      for (int i = thread; i < levels * kHelping; i += Block::kThreads) {
        const Key key = shared.window[i];
        if (key == kNoKey) continue;
        const int level = i / kHelping;
        int rank = i % kHelping;
        for (int other = 0; other < levels && rank < kHelping; ++other) {
          if (other != level) rank += keys_below(shared.window + other * kHelping, key);
        }
        if (rank >= kHelping) continue;
        shared.keys[rank] = key;
        Block::atomic_add(&shared.taken[level], 1u);
        Block::atomic_add(&shared.ready, 1u);
      }
    });
    const int ready = static_cast<int>(block.read(shared.ready));
    if (ready == 0) break;

    typename Block::template PerThread<bool> open(block);
    block.for_threads([&](int thread) {
      open[thread] = false;
      if (thread >= ready) return;
      const Key key = shared.keys[thread];
      const uint32_t rank = key_rank(key);
      const uint32_t point = rank / static_cast<uint32_t>(plan.num_classes);
      const uint32_t class_id = rank - point * static_cast<uint32_t>(plan.num_classes);
      const int level = key_level(key);
      const Level& grid = plan.levels[level];
      const size_t points = static_cast<size_t>(grid.points());
      const T* distance = static_cast<const T*>(args.heads[levels + level]) +
                          static_cast<size_t>(image) * points * 4 + point;
      const int32_t index = static_cast<int32_t>(point);
      Box box{};
      open[thread] =
          decode_box(grid.x(index), grid.y(index), to_float(distance[0]),
                     to_float(distance[points]), to_float(distance[2 * points]),
                     to_float(distance[3 * points]), grid.scale, plan.width, plan.height, &box);
      shared.boxes[thread] = {box, area(box),
                              plan.class_agnostic ? 0 : static_cast<int32_t>(class_id)};
    });
    // Against those kept so far, several threads to a candidate.
    block.for_threads([&](int thread) {
      const int candidate = thread % kHelping;
      bool near = false;
      if (candidate < ready) {
        const KeptBox mine = shared.boxes[candidate];
        for (int i = thread / kHelping; i < count && !near; i += Block::kThreads / kHelping) {
          near = kept[i].group == mine.group &&
                 overlaps(kept[i].box, kept[i].area, mine.box, mine.area, plan.nms_iou);
        }
      }
      shared.near_kept[thread] = near;
    });
    block.for_threads([&](int thread) {
      for (int i = thread; i < Block::kThreads; i += kHelping) {
        if (shared.near_kept[i]) open[thread] = false;
      }
    });
    block.ballot(open, shared.alive);
    // Among themselves: which earlier ones would remove which later ones.
    block.for_threads([&](int thread) {
      for (int i = thread; i < kHelping * kHelpingWords; i += Block::kThreads) {
        const int later = i % kHelping;
        const int word = i / kHelping;
        if (word * 32 >= later || ((shared.alive[later / 32] >> (later % 32)) & 1u) == 0) continue;
        const uint32_t earlier_ones = later - word * 32 < 32 ? (1u << (later % 32)) - 1u : ~0u;
        const KeptBox mine = shared.boxes[later];
        uint32_t removes = 0;
        for (uint32_t bits = shared.alive[word] & earlier_ones; bits != 0; bits &= bits - 1) {
          const KeptBox& other = shared.boxes[word * 32 + lowest_bit(bits)];
          if (other.group == mine.group &&
              overlaps(other.box, other.area, mine.box, mine.area, plan.nms_iou)) {
            removes |= bits & (~bits + 1u);
          }
        }
        shared.overlap[word][later] = removes;
      }
    });
    // Greedy suppression is the fixpoint of "no earlier one that stays removes me": each round
    // settles at least the first that is not settled yet; real frames take a few.
    typename Block::template PerThread<bool> stays(block);
    bool changed = true;
    while (changed) {
      block.for_threads([&](int thread) {
        bool result = open[thread];
        for (int word = 0; result && word * 32 < thread; ++word) {
          result = (shared.overlap[word][thread] & shared.alive[word]) == 0;
        }
        stays[thread] = result;
      });
      block.ballot(stays, shared.again);
      bool differs = false;
      for (int word = 0; word < kHelpingWords; ++word) {
        differs |= shared.again[word] != shared.alive[word];
      }
      changed = block.read(differs);
      block.for_threads([&](int thread) {
        if (thread < kHelpingWords) shared.alive[thread] = shared.again[thread];
      });
    }

    int total = 0;
    for (int word = 0; word < kHelpingWords; ++word) {
      total += static_cast<int>(count_bits(shared.alive[word]));
    }
    total = block.read(total);
    block.for_threads([&](int thread) {
      if (!stays[thread]) return;
      int place = count + static_cast<int>(
                              count_bits(shared.alive[thread / 32] & ((1u << (thread % 32)) - 1u)));
      for (int word = 0; word < thread / 32; ++word) {
        place += static_cast<int>(count_bits(shared.alive[word]));
      }
      if (place >= most) return;
      const KeptBox& entry = shared.boxes[thread];
      const Key key = shared.keys[thread];
      kept[place] = entry;
      boxes[place * 4 + 0] = entry.box.x1;
      boxes[place * 4 + 1] = entry.box.y1;
      boxes[place * 4 + 2] = entry.box.x2;
      boxes[place * 4 + 3] = entry.box.y2;
      scores[place] = sigmoid(key_logit(key));
      classes[place] =
          static_cast<int32_t>(key_rank(key) % static_cast<uint32_t>(plan.num_classes));
    });
    count = count + total < most ? count + total : most;
  }
  block.for_threads([&](int thread) {
    if (thread == 0) args.out.num_detections[image] = count;
    for (int i = count + thread; i < most; i += Block::kThreads) {
      for (int side = 0; side < 4; ++side) boxes[i * 4 + side] = 0.0f;
      scores[i] = 0.0f;
      classes[i] = -1;
    }
  });
}

}  // namespace afdet
