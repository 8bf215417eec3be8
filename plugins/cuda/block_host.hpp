// The block policy on the CPU: the phases of one block, thread by thread. In another order of
// threads a result must be the same; if not, the kernel has a race.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "core/key.hpp"

#define AFDET_BODY inline

namespace afdet {

// The order in which threads, and blocks, take their turns.
class Order {
 public:
  // 0: ascending; 1: descending; else shuffled, anew for each phase.
  explicit Order(uint32_t seed) : seed_(seed), random_(seed) {}

  std::vector<int> turns(int count) {
    std::vector<int> result(static_cast<size_t>(count));
    std::iota(result.begin(), result.end(), 0);
    if (seed_ == 1) std::reverse(result.begin(), result.end());
    if (seed_ > 1) std::shuffle(result.begin(), result.end(), random_);
    return result;
  }

  bool ascending() const { return seed_ == 0; }

 private:
  uint32_t seed_;
  std::mt19937 random_;
};

template <int kBlockThreads, typename SharedData, bool kSums = false, int kSort = 0>
class HostBlock {
 public:
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kSortKeys = kSort;

  template <typename T>
  class PerThread {
   public:
    explicit PerThread(HostBlock&) : values_(new T[kBlockThreads]) {
      std::memset(static_cast<void*>(values_.get()), 0xCD, sizeof(T) * kBlockThreads);
    }
    T& operator[](int thread) { return values_[static_cast<size_t>(thread)]; }

   private:
    std::unique_ptr<T[]> values_;
  };

  HostBlock(int x, int y, Order& order)
      : x_(x), y_(y), order_(order), shared_(new SharedData), keys_(kSort == 0 ? 1 : kSort) {
    // What a kernel reads without having written it is garbage on the GPU, and here.
    std::memset(static_cast<void*>(shared_.get()), 0xCD, sizeof(SharedData));
    std::memset(static_cast<void*>(keys_.data()), 0xCD, keys_.size() * sizeof(Key));
  }

  int x() const { return x_; }
  int y() const { return y_; }
  SharedData& shared() { return *shared_; }
  Key* keys() { return keys_.data(); }

  template <typename F>
  void for_threads(F&& function) {
    if (order_.ascending()) {
      for (int thread = 0; thread < kThreads; ++thread) function(thread);
    } else {
      for (const int thread : order_.turns(kThreads)) function(thread);
    }
  }

  template <typename T>
  T read(const T& shared) {
    return shared;
  }

  int32_t exclusive_sum(PerThread<int32_t>& values) {
    static_assert(kSums, "the block must say that it sums");
    int32_t total = 0;
    for (int thread = 0; thread < kThreads; ++thread) {
      const int32_t value = values[thread];
      values[thread] = total;
      total += value;
    }
    return total;
  }

  void ballot(PerThread<bool>& flags, uint32_t* words) {
    for (int word = 0; word < kThreads / 32; ++word) {
      words[word] = 0;
      for (int lane = 0; lane < 32; ++lane) {
        if (flags[word * 32 + lane]) words[word] |= 1u << lane;
      }
    }
  }

  void sort() { std::sort(keys_.begin(), keys_.end()); }

  static uint32_t atomic_add(uint32_t* address, uint32_t value) {
    const uint32_t before = *address;
    *address += value;
    return before;
  }

 private:
  int x_, y_;
  Order& order_;
  std::unique_ptr<SharedData> shared_;
  std::vector<Key> keys_;
};

// A launch: the body once for each block of a grid.
template <typename Block, typename F>
void for_blocks(int width, int height, uint32_t order_seed, F&& body) {
  Order order(order_seed);
  for (const int y : order.turns(height)) {
    for (const int x : order.turns(width)) {
      Block block(x, y, order);
      body(block);
    }
  }
}

}  // namespace afdet
