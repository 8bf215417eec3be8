// The second detection kernel: the best candidates of each image and level, in order.
// A template over the block policy (README.md).
#pragma once

#include "cuda/detect_scan.hpp"

namespace afdet {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

// Keys that a thread reads from a list at a time.
constexpr int kKeyLoads = 8;

// The digit that contains the last wanted key.
struct Cut {
  uint32_t digit;
  uint32_t below;   // candidates of smaller digits
  uint32_t inside;  // candidates of this digit
};

static_assert(kManySorted <= kListCapacity, "a list holds at least as many keys as one sort");

struct SelectShared {
  uint32_t histogram[kDigits];
  Cut cut;
  uint32_t filled;
};

// Calls the function with every candidate of the level, distributed over the threads.
template <typename T, typename Block, typename F>
AFDET_BODY void for_candidates(Block& block, const DetectArgs& args, uint32_t found, F&& function) {
  constexpr uint32_t kThreads = Block::kThreads;
  const int level = block.x();
  const int image = block.y();
  if (found <= static_cast<uint32_t>(args.capacity[level])) {
    const Key* list = list_of(args, level, image);
    block.for_threads([&](int thread) {
      for (uint32_t i = static_cast<uint32_t>(thread); i < found; i += kThreads * kKeyLoads) {
        Key keys[kKeyLoads];
        for (uint32_t k = 0; k < kKeyLoads; ++k) {
          keys[k] = i + k * kThreads < found ? list[i + k * kThreads] : kNoKey;
        }
        for (uint32_t k = 0; k < kKeyLoads; ++k) {
          if (keys[k] != kNoKey) function(keys[k]);
        }
      }
    });
    return;
  }
  const Logits<T> logits(args, level, image);
  const uint32_t per_chunk = kThreads * Logits<T>::kPerThread;
  const uint32_t chunks = (logits.pairs() + per_chunk - 1) / per_chunk;
  block.for_threads([&](int thread) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      uint32_t bits = logits.template find<Block::kThreads>(chunk, thread);
      for (; bits != 0; bits &= bits - 1) {
        function(
            logits.key(logits.template index<Block::kThreads>(chunk, thread, lowest_bit(bits))));
      }
    }
  });
}

// Returns a limit: at least `wanted` candidates, and at most as many as the block sorts, have keys
// between `after` and it. The search goes digit by digit from the top; `low` is the first key with
// the digits found so far.
template <typename T, typename Block>
AFDET_BODY Key find_last(Block& block, const DetectArgs& args, uint32_t found, Key after,
                         uint32_t wanted) {
  static_assert(kDigits % Block::kThreads == 0, "each thread sums some digits");
  constexpr int kShare = kDigits / Block::kThreads;
  SelectShared& shared = block.shared();
  Key low = 0;
  Key last = kNoKey;
  uint32_t below = 0;  // candidates below `low`
  for (int shift = 64 - kDigitBits;; shift = shift > kDigitBits ? shift - kDigitBits : 0) {
    block.for_threads([&](int thread) {
      for (int i = thread; i < kDigits; i += Block::kThreads) shared.histogram[i] = 0;
    });
    for_candidates<T>(block, args, found, [&](Key key) {
      if (key > after && key >= low && key <= last) {
        Block::count(&shared.histogram[(key - low) >> shift]);
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
      uint32_t sum = below + static_cast<uint32_t>(before[thread]);
      for (int i = 0; i < kShare; ++i) {
        const uint32_t inside = shared.histogram[thread * kShare + i];
        if (sum < wanted && wanted <= sum + inside) {
          shared.cut = {static_cast<uint32_t>(thread * kShare + i), sum, inside};
        }
        sum += inside;
      }
    });
    const Cut cut = block.read(shared.cut);
    low += static_cast<Key>(cut.digit) << shift;
    last = low + ((Key{1} << shift) - 1);
    below = cut.below;
    if (below + cut.inside <= static_cast<uint32_t>(Block::kSortKeys)) return last;
  }
}

// Loads the candidates to sort next into the block's keys: all candidates after `after` if they
// fit, otherwise the best of them, at least `wanted`.
template <typename T, typename Block>
AFDET_BODY void gather(Block& block, const DetectArgs& args, uint32_t found, uint32_t done,
                       Key after, uint32_t wanted) {
  constexpr uint32_t kThreads = Block::kThreads;
  constexpr uint32_t kSortKeys = Block::kSortKeys;
  SelectShared& shared = block.shared();
  Key* keys = block.keys();
  if (found <= kSortKeys) {
    const Key* list = list_of(args, block.x(), block.y());
    block.for_threads([&](int thread) {
      for (uint32_t i = static_cast<uint32_t>(thread); i < kSortKeys; i += kThreads) {
        keys[i] = i < found ? list[i] : kNoKey;
      }
    });
    return;
  }
  const Key last =
      found - done <= kSortKeys ? kNoKey : find_last<T>(block, args, found, after, wanted);
  block.for_threads([&](int thread) {
    for (uint32_t i = static_cast<uint32_t>(thread); i < kSortKeys; i += kThreads) {
      keys[i] = kNoKey;
    }
    if (thread == 0) shared.filled = 0;
  });
  for_candidates<T>(block, args, found, [&](Key key) {
    if (key > after && key <= last) keys[Block::take(&shared.filled)] = key;
  });
}

// Grid: (levels, images). Writes the number of selected candidates to counts.
template <typename T, typename Block>
AFDET_BODY void select(Block& block, const DetectArgs& args) {
  constexpr uint32_t kSortKeys = Block::kSortKeys;
  const int level = block.x();
  const int image = block.y();
  const Key* keys = block.keys();
  Key* sorted = sorted_of(args, level, image);
  uint32_t* count = count_of(args, level, image);
  const uint32_t found = block.read(*count);
  const uint32_t limit = static_cast<uint32_t>(most_of_level(args.params, level));
  const uint32_t most = found < limit ? found : limit;

  // Each pass takes as many as fit the sort. The key of a candidate is never zero.
  Key after = 0;
  for (uint32_t done = 0; done < most;) {
    const uint32_t wanted = most - done < kSortKeys ? most - done : kSortKeys;
    gather<T>(block, args, found, done, after, wanted);
    block.sort();
    block.for_threads([&](int thread) {
      for (uint32_t i = static_cast<uint32_t>(thread); i < wanted; i += Block::kThreads) {
        sorted[done + i] = keys[i];
      }
    });
    done += wanted;
    after = block.read(sorted[done - 1]);
  }
  if (most == found) return;
  block.for_threads([&](int thread) {
    if (thread == 0) *count = most;
  });
}

}  // namespace afdet
