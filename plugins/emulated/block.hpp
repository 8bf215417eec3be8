// The block policy on the CPU: runs the phases of one block thread by thread. If the result depends
// on the order of threads, the kernel has a race.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "core/key.hpp"

#define AFDET_BODY inline

namespace afdet {

// The order of threads and blocks.
class Order {
 public:
  // 0: ascending; 1: descending; other values: shuffled again for each phase.
  explicit Order(uint32_t seed) : seed_(seed), random_(seed) {}

  std::vector<int> turns(int count) {
    std::vector<int> result(static_cast<size_t>(count));
    std::iota(result.begin(), result.end(), 0);
    if (seed_ == 1) std::reverse(result.begin(), result.end());
    if (seed_ > 1) std::shuffle(result.begin(), result.end(), random_);
    return result;
  }

  bool ascending() const { return seed_ == 0; }

  // Fills uninitialised memory with this byte, so that a kernel that reads it gets garbage, as on
  // the GPU. As a number it is negative or positive.
  int garbage() const { return seed_ == 0 ? 0xCD : 0x2D; }

 private:
  uint32_t seed_;
  std::mt19937 random_;
};

template <int kBlockThreads, typename SharedData, int kSort = 0>
class EmulatedBlock {
 public:
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kSortKeys = kSort;

  template <typename T>
  class PerThread {
   public:
    explicit PerThread(EmulatedBlock& block) : values_(new T[kBlockThreads]) {
      std::memset(static_cast<void*>(values_.get()), block.order_.garbage(),
                  sizeof(T) * kBlockThreads);
    }
    T& operator[](int thread) { return values_[static_cast<size_t>(thread)]; }

   private:
    std::unique_ptr<T[]> values_;
  };

  EmulatedBlock(int x, int y, Order& order)
      : x_(x), y_(y), order_(order), shared_(new SharedData), keys_(kSort == 0 ? 1 : kSort) {
    std::memset(static_cast<void*>(shared_.get()), order.garbage(), sizeof(SharedData));
    std::memset(static_cast<void*>(keys_.data()), order.garbage(), keys_.size() * sizeof(Key));
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
    for (const Watched& watched : watched_) {
      if (std::memcmp(watched.address, watched.bytes.data(), watched.bytes.size()) == 0) continue;
      std::fputs("afdet: a phase changed what block.read() had read just before\n", stderr);
      std::abort();
    }
    watched_.clear();
  }

  template <typename T>
  T read(const T& shared) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(&shared);
    watched_.push_back({&shared, {bytes, bytes + sizeof(T)}});
    return shared;
  }

  int32_t exclusive_sum(PerThread<int32_t>& values) {
    watched_.clear();
    int32_t total = 0;
    for (int thread = 0; thread < kThreads; ++thread) {
      const int32_t value = values[thread];
      values[thread] = total;
      total += value;
    }
    return total;
  }

  int32_t rank(PerThread<bool>& flags, PerThread<int32_t>& ranks) {
    watched_.clear();
    int32_t total = 0;
    for (int thread = 0; thread < kThreads; ++thread) {
      ranks[thread] = total;
      total += flags[thread] ? 1 : 0;
    }
    return total;
  }

  void sort() {
    watched_.clear();
    std::sort(keys_.begin(), keys_.end());
  }

  static uint32_t add(uint32_t* address, uint32_t value) {
    const uint32_t before = *address;
    *address += value;
    return before;
  }

  static int32_t exchange(int32_t* address, int32_t value) {
    const int32_t before = *address;
    *address = value;
    return before;
  }

  static void count(uint32_t* address) { ++*address; }
  static uint32_t take(uint32_t* address) { return (*address)++; }

 private:
  // Values read since the last barrier. On the GPU, slower threads may not have read them yet.
  struct Watched {
    const void* address;
    std::vector<unsigned char> bytes;
  };

  int x_, y_;
  Order& order_;
  std::unique_ptr<SharedData> shared_;
  std::vector<Key> keys_;
  std::vector<Watched> watched_;
};

// A launch: runs the body once for each block of a grid.
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
