// The third detection kernel: merges, decodes and suppresses the levels' candidates, best first,
// until enough are kept. A template over the block policy (README.md).
#pragma once

#include "cuda/detect_scan.hpp"

namespace afdet {

// Number of remaining candidates to compare with each other at a time.
constexpr int kChunk = 64;

// Lists of kept candidates, by group.
constexpr int kBuckets = 256;

// The number of candidates taken from each level. Absent levels have no candidates.
struct Progress {
  uint32_t count[AFDET_MAX_LEVELS];
  uint32_t taken[AFDET_MAX_LEVELS];
};

struct SuppressShared {
  Key merged[2][kSuppressThreads];
  Key window[kSuppressThreads];
  Candidate kept[kSharedKept];
  Candidate chunk[kChunk];
  uint64_t removes[kChunk];  // bit j of i: i removes j if i is kept
  uint64_t stays;            // bit i: i is kept
  int32_t bucket[kBuckets];  // a kept candidate, or -1
  Progress progress;
};

AFDET_HD bool removes(const Candidate& a, const Candidate& b, float iou) {
  // Disjoint boxes skip the division.
  return a.group == b.group && a.box.x1 < b.box.x2 && b.box.x1 < a.box.x2 && a.box.y1 < b.box.y2 &&
         b.box.y1 < a.box.y2 && overlaps(a.box, a.area, b.box, b.area, iou);
}

AFDET_HD int32_t class_of(const DecodeParams& params, Key key) {
  return static_cast<int32_t>(key_rank(key) % static_cast<uint32_t>(params.num_classes));
}

// False if the candidate's box is invalid.
template <typename T>
AFDET_HD bool decode(const DetectArgs& args, int image, Key key, Candidate* result) {
  const DecodeParams& params = args.params;
  const int level = key_level(key);
  const Level& grid = params.levels[level];
  const int32_t point =
      static_cast<int32_t>(key_rank(key) / static_cast<uint32_t>(params.num_classes));
  const size_t points = static_cast<size_t>(grid.points());
  const T* distances = static_cast<const T*>(args.heads[params.num_levels + level]) +
                       static_cast<size_t>(image) * points * 4 + point;
  Box box{};
  if (!decode_box(grid.x(point), grid.y(point), to_float(distances[0]), to_float(distances[points]),
                  to_float(distances[2 * points]), to_float(distances[3 * points]), grid.scale,
                  params.width, params.height, &box)) {
    return false;
  }
  *result = {box, area(box), params.class_agnostic ? 0 : class_of(params, key), -1, 0};
  return true;
}

// The key at an index of two merged ascending sequences; both must be longer than the index.
AFDET_HD Key merged_key(const Key* a, const Key* b, int place) {
  int low = 0;  // number of keys of a before the index
  int high = place;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (a[middle] < b[place - 1 - middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const Key from_a = a[low];
  const Key from_b = b[place - low];
  return from_a < from_b ? from_a : from_b;
}

// A bit for each level with remaining candidates.
AFDET_HD uint32_t levels_left(const Progress& progress) {
  uint32_t left = 0;
  for (int level = 0; level < AFDET_MAX_LEVELS; ++level) {
    left |= static_cast<uint32_t>(progress.taken[level] < progress.count[level]) << level;
  }
  return left;
}

AFDET_HD uint32_t total_of(const Progress& progress) {
  uint32_t total = 0;
  for (int level = 0; level < AFDET_MAX_LEVELS; ++level) total += progress.count[level];
  return total;
}

// The image's next candidates in ascending order, one key per thread; kNoKey after the last.
template <typename Block>
AFDET_BODY const Key* next_candidates(Block& block, const DetectArgs& args, int image) {
  SuppressShared& shared = block.shared();
  const auto load = [&](int level, int thread) {
    const uint32_t place = shared.progress.taken[level] + static_cast<uint32_t>(thread);
    return place < shared.progress.count[level] ? sorted_of(args, level, image)[place] : kNoKey;
  };
  uint32_t left = levels_left(block.read(shared.progress));
  int current = 0;
  // A level's keys load while the previous levels are merged.
  typename Block::template PerThread<Key> ahead(block);
  block.for_threads([&](int thread) {
    shared.merged[0][thread] = load(lowest_bit(left), thread);
    const uint32_t rest = left & (left - 1);
    if (rest != 0) ahead[thread] = load(lowest_bit(rest), thread);
  });
  for (left &= left - 1; left != 0; left &= left - 1) {
    block.for_threads([&](int thread) {
      shared.window[thread] = ahead[thread];
      const uint32_t rest = left & (left - 1);
      if (rest != 0) ahead[thread] = load(lowest_bit(rest), thread);
    });
    block.for_threads([&](int thread) {
      shared.merged[1 - current][thread] =
          merged_key(shared.merged[current], shared.window, thread);
    });
    current = 1 - current;
  }
  return shared.merged[current];
}

// Decides which of the chunk's first `size` candidates are kept: bit i of shared.stays.
template <typename Block>
AFDET_BODY void settle_chunk(Block& block, int size, float iou) {
  SuppressShared& shared = block.shared();
  // Each thread compares eight pairs, one byte of the result. The threads of a warp share the later
  // candidates, so they read them together.
  block.for_threads([&](int thread) {
    for (int item = thread; item < kChunk * kChunk / 8; item += Block::kThreads) {
      const int earlier = item % kChunk;
      const int first = item / kChunk * 8;
      unsigned char bits = 0;
      if (earlier < size && earlier < first + 7) {
        const Candidate candidate = shared.chunk[earlier];
        for (int i = 0; i < 8; ++i) {
          const int later = first + i;
          if (later > earlier && later < size && removes(candidate, shared.chunk[later], iou)) {
            bits = static_cast<unsigned char>(bits | (1u << i));
          }
        }
      }
      reinterpret_cast<unsigned char*>(&shared.removes[earlier])[item / kChunk] = bits;
    }
  });
  block.for_threads([&](int thread) {
    if (thread != 0) return;
    uint64_t open = size < 64 ? (uint64_t{1} << size) - 1 : ~uint64_t{0};
    uint64_t stays = 0;
    while (open != 0) {
      const uint64_t first = open & (~open + 1);
      stays |= first;
      open &= ~(first | shared.removes[lowest_bit(open)]);
    }
    shared.stays = stays;
  });
}

// Grid: images.
template <typename T, typename Block>
AFDET_BODY void suppress(Block& block, const DetectArgs& args) {
  static_assert(kChunk == 64, "a chunk's results are the bits of one word");
  const DecodeParams& params = args.params;
  const int image = block.x();
  const int most = params.max_detections;
  SuppressShared& shared = block.shared();
  const size_t first_row = static_cast<size_t>(image) * static_cast<size_t>(most);
  Candidate* kept = args.kept == nullptr ? shared.kept : args.kept + first_row;
  float* boxes = args.out.boxes + first_row * 4;
  float* scores = args.out.scores + first_row;
  int32_t* classes = args.out.classes + first_row;

  block.for_threads([&](int thread) {
    for (int i = thread; i < kBuckets; i += Block::kThreads) shared.bucket[i] = -1;
    if (thread < AFDET_MAX_LEVELS) {
      shared.progress.count[thread] =
          thread < params.num_levels ? *count_of(args, thread, image) : 0;
      shared.progress.taken[thread] = 0;
    }
  });
  const uint32_t total = total_of(block.read(shared.progress));

  typename Block::template PerThread<Key> key(block);
  typename Block::template PerThread<Candidate> mine(block);
  typename Block::template PerThread<bool> open(block);     // neither removed nor kept so far
  typename Block::template PerThread<int32_t> rank(block);  // among those open
  int count = 0;
  for (uint32_t walked = 0; walked < total && count < most; walked += Block::kThreads) {
    const Key* candidates = next_candidates(block, args, image);
    block.for_threads([&](int thread) {
      key[thread] = candidates[thread];
      open[thread] = false;
      if (key[thread] == kNoKey) return;
      Block::count(&shared.progress.taken[key_level(key[thread])]);
      Candidate& candidate = mine[thread];
      bool free = decode<T>(args, image, key[thread], &candidate);
      if (free) {
        int32_t i = shared.bucket[candidate.group % kBuckets];
        for (; i >= 0 && free; i = kept[i].next)
          free = !removes(kept[i], candidate, params.nms_iou);
      }
      open[thread] = free;
    });
    int left = block.rank(open, rank);
    while (left > 0 && count < most) {
      block.for_threads([&](int thread) {
        if (open[thread] && rank[thread] < kChunk) shared.chunk[rank[thread]] = mine[thread];
      });
      settle_chunk(block, left < kChunk ? left : kChunk, params.nms_iou);
      const uint64_t stays = block.read(shared.stays);
      block.for_threads([&](int thread) {
        if (!open[thread]) return;
        Candidate& candidate = mine[thread];
        const int32_t position = rank[thread];
        if (position >= kChunk) {
          for (uint64_t bits = stays; bits != 0 && open[thread]; bits &= bits - 1) {
            open[thread] = !removes(shared.chunk[lowest_bit(bits)], candidate, params.nms_iou);
          }
          return;
        }
        open[thread] = false;
        const uint64_t own = uint64_t{1} << position;
        const int place = count + static_cast<int>(count_bits(stays & (own - 1)));
        if ((stays & own) == 0 || place >= most) return;
        candidate.next = Block::exchange(&shared.bucket[candidate.group % kBuckets], place);
        kept[place] = candidate;
        boxes[place * 4 + 0] = candidate.box.x1;
        boxes[place * 4 + 1] = candidate.box.y1;
        boxes[place * 4 + 2] = candidate.box.x2;
        boxes[place * 4 + 3] = candidate.box.y2;
        // Logits become scores together at the end, because that needs double precision.
        scores[place] = key_logit(key[thread]);
        classes[place] = class_of(params, key[thread]);
      });
      count += static_cast<int>(count_bits(stays));
      left = block.rank(open, rank);
    }
  }
  count = count < most ? count : most;
  block.for_threads([&](int thread) {
    if (thread == 0) args.out.num_detections[image] = count;
    for (int i = thread; i < most; i += Block::kThreads) {
      if (i < count) {
        scores[i] = sigmoid(scores[i]);
        continue;
      }
      for (int side = 0; side < 4; ++side) boxes[i * 4 + side] = 0.0f;
      scores[i] = 0.0f;
      classes[i] = -1;
    }
  });
}

}  // namespace afdet
