// The block policy on the GPU: every call compiles to what one would write by hand.
#pragma once

#include <cstdint>
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_scan.cuh>
#include <type_traits>

#include "core/key.hpp"

#define AFDET_BODY __device__ __forceinline__

namespace afdet {

struct KeyLess {
  __device__ __forceinline__ bool operator()(Key a, Key b) const { return a < b; }
};

// kSort: keys that sort() orders, a multiple of kThreads; 0 if a kernel sorts nothing.
template <int kBlockThreads, typename SharedData, int kSort = 0>
class CudaBlock {
  static constexpr int kItems = kSort == 0 ? 1 : kSort / kBlockThreads;
  static constexpr int kWarps = kBlockThreads / 32;
  using Scan = cub::BlockScan<int32_t, kBlockThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  using Sort = cub::BlockMergeSort<Key, kBlockThreads, kItems>;
  struct Nothing {};
  using SortStorage = std::conditional_t<kSort == 0, Nothing, typename Sort::TempStorage>;

 public:
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kSortKeys = kSort;

  // The block's shared memory. Keys lie where the sort works, since they are never both needed.
  struct Storage {
    SharedData data;
    union {
      Key keys[kSort == 0 ? 1 : kSort];
      SortStorage sort;
    };
    typename Scan::TempStorage scan;
    uint32_t warps[2][kWarps];
  };

  // A variable of each thread that lives on from phase to phase.
  template <typename T>
  class PerThread {
   public:
    __device__ __forceinline__ explicit PerThread(CudaBlock&) {}
    __device__ __forceinline__ T& operator[](int) { return value_; }

   private:
    T value_;
  };

  __device__ __forceinline__ explicit CudaBlock(Storage& storage) : storage_(storage) {}

  __device__ __forceinline__ int x() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ int y() const { return static_cast<int>(blockIdx.y); }
  __device__ __forceinline__ SharedData& shared() { return storage_.data; }
  __device__ __forceinline__ Key* keys() { return storage_.keys; }

  // A phase: the function once for each thread, then a barrier.
  template <typename F>
  __device__ __forceinline__ void for_threads(F&& function) {
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
  }

  // A shared value for all threads. The next phase must leave it alone: some threads may be in that
  // phase before others have read.
  template <typename T>
  __device__ __forceinline__ T read(const T& shared) {
    return shared;
  }

  // Each thread's value becomes the sum of those of the threads before it. Returns the sum of all.
  __device__ __forceinline__ int32_t exclusive_sum(PerThread<int32_t>& values) {
    int32_t total;
    Scan(storage_.scan).ExclusiveSum(values[0], values[0], total);
    __syncthreads();
    return total;
  }

  // Each thread's rank becomes how many threads before it have their flag set. Returns how many of
  // all have.
  __device__ __forceinline__ int32_t rank(PerThread<bool>& flags, PerThread<int32_t>& ranks) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t word = __ballot_sync(0xFFFFFFFFu, flags[0]);
    // Two places take turns, so that the next call's barrier also ends the reading of this one.
    turn_ ^= 1;
    uint32_t* warps = storage_.warps[turn_];
    if (lane == 0) warps[warp] = static_cast<uint32_t>(__popc(word));
    __syncthreads();
    uint32_t before = static_cast<uint32_t>(__popc(word & ((1u << lane) - 1u)));
    uint32_t total = 0;
#pragma unroll
    for (uint32_t other = 0; other < kWarps; ++other) {
      const uint32_t count = warps[other];
      before += other < warp ? count : 0;
      total += count;
    }
    ranks[0] = static_cast<int32_t>(before);
    return static_cast<int32_t>(total);
  }

  // Brings keys()[0, kSort) into ascending order.
  __device__ __forceinline__ void sort() {
    Key items[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) items[i] = storage_.keys[threadIdx.x * kItems + i];
    __syncthreads();
    Sort(storage_.sort).Sort(items, KeyLess());
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kItems; ++i) storage_.keys[threadIdx.x * kItems + i] = items[i];
    __syncthreads();
  }

  // Atomic: returns the value before.
  static __device__ __forceinline__ uint32_t add(uint32_t* address, uint32_t value) {
    return atomicAdd(address, value);
  }

  static __device__ __forceinline__ int32_t exchange(int32_t* address, int32_t value) {
    return atomicExch(address, value);
  }

  // Atomic: one more. The hardware adds up a warp's.
  static __device__ __forceinline__ void count(uint32_t* address) { atomicAdd(address, 1u); }

  // Atomic: a number for each caller, counted from the value. One addition for those of a warp that
  // come here together.
  static __device__ __forceinline__ uint32_t take(uint32_t* address) {
    const uint32_t callers = __activemask();
    const uint32_t before = callers & ((1u << (threadIdx.x % 32)) - 1u);
    uint32_t start = 0;
    if (before == 0) start = atomicAdd(address, static_cast<uint32_t>(__popc(callers)));
    return __shfl_sync(callers, start, __ffs(static_cast<int>(callers)) - 1) +
           static_cast<uint32_t>(__popc(before));
  }

 private:
  Storage& storage_;
  int turn_ = 0;
};

}  // namespace afdet
