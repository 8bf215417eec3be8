// The block policy on the GPU: calls compile to the same code as hand-written kernels.
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

// kSort: number of keys that sort() orders, a multiple of kThreads; 0 if the kernel does not sort.
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

  // The block's shared memory. The keys and the sort's memory overlap: only one is used at a time.
  struct Storage {
    SharedData data;
    union {
      Key keys[kSort == 0 ? 1 : kSort];
      SortStorage sort;
    };
    typename Scan::TempStorage scan;
    uint32_t warps[2][kWarps];
  };

  // A variable of each thread that keeps its value between phases.
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

  // Runs a phase: the function once for each thread, then a barrier.
  template <typename F>
  __device__ __forceinline__ void for_threads(F&& function) {
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
  }

  // Reads a shared value in all threads. The next phase must not change it, because some threads
  // may enter that phase before others have read it.
  template <typename T>
  __device__ __forceinline__ T read(const T& shared) {
    return shared;
  }

  // Replaces each thread's value by the sum over the threads before it. Returns the total.
  __device__ __forceinline__ int32_t exclusive_sum(PerThread<int32_t>& values) {
    int32_t total;
    Scan(storage_.scan).ExclusiveSum(values[0], values[0], total);
    __syncthreads();
    return total;
  }

  // Sets each thread's rank to the number of earlier threads with a set flag. Returns the total
  // number of set flags.
  __device__ __forceinline__ int32_t rank(PerThread<bool>& flags, PerThread<int32_t>& ranks) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t word = __ballot_sync(0xFFFFFFFFu, flags[0]);
    // Two buffers alternate, so that the next call's barrier also ends the reads of this call.
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

  // Sorts keys()[0, kSort) in ascending order.
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

  // Atomic addition; returns the previous value.
  static __device__ __forceinline__ uint32_t add(uint32_t* address, uint32_t value) {
    return atomicAdd(address, value);
  }

  static __device__ __forceinline__ int32_t exchange(int32_t* address, int32_t value) {
    return atomicExch(address, value);
  }

  // Atomic increment. The hardware combines the increments of a warp.
  static __device__ __forceinline__ void count(uint32_t* address) { atomicAdd(address, 1u); }

  // Atomic: gives each caller a different number, counting up from the value. The threads of a warp
  // that call together share one addition.
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
