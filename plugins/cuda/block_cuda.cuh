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

struct Nothing {};

// kSums: whether a kernel uses exclusive_sum. kSort: keys that sort() orders, a multiple of
// kThreads; 0 if it sorts nothing. What is not used takes no shared memory.
template <int kBlockThreads, typename SharedData, bool kSums = false, int kSort = 0>
class CudaBlock {
  static constexpr int kItems = kSort == 0 ? 1 : kSort / kBlockThreads;
  using Scan = cub::BlockScan<int32_t, kBlockThreads>;
  using Sort = cub::BlockMergeSort<Key, kBlockThreads, kItems>;

 public:
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kSortKeys = kSort;

  // The block's shared memory. Keys lie where the sort works, since they are never both needed.
  union SortStorage {
    Key keys[kSort == 0 ? 1 : kSort];
    typename Sort::TempStorage temporary;
  };
  struct Storage {
    SharedData data;
    std::conditional_t<kSums, typename Scan::TempStorage, Nothing> sums;
    std::conditional_t<(kSort > 0), SortStorage, Nothing> sort;
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
  __device__ __forceinline__ Key* keys() { return storage_.sort.keys; }

  // A phase: the function once for each thread, then a barrier.
  template <typename F>
  __device__ __forceinline__ void for_threads(F&& function) {
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
  }

  // A shared value for all threads. The barrier keeps the next phase from changing it too early.
  template <typename T>
  __device__ __forceinline__ T read(const T& shared) {
    const T value = shared;
    __syncthreads();
    return value;
  }

  // Each thread's value becomes the sum of those of the threads before it. Returns the sum of all.
  __device__ __forceinline__ int32_t exclusive_sum(PerThread<int32_t>& values) {
    int32_t total;
    Scan(storage_.sums).ExclusiveSum(values[0], values[0], total);
    __syncthreads();
    return total;
  }

  // Bit t of the words: thread t's flag.
  __device__ __forceinline__ void ballot(PerThread<bool>& flags, uint32_t* words) {
    const uint32_t word = __ballot_sync(0xFFFFFFFFu, flags[0]);
    if (threadIdx.x % 32 == 0) words[threadIdx.x / 32] = word;
    __syncthreads();
  }

  // Brings keys()[0, kSort) into ascending order.
  __device__ __forceinline__ void sort() {
    Key items[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) items[i] = storage_.sort.keys[threadIdx.x * kItems + i];
    __syncthreads();
    Sort(storage_.sort.temporary).Sort(items, KeyLess());
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kItems; ++i) storage_.sort.keys[threadIdx.x * kItems + i] = items[i];
    __syncthreads();
  }

  static __device__ __forceinline__ uint32_t atomic_add(uint32_t* address, uint32_t value) {
    return atomicAdd(address, value);
  }

 private:
  Storage& storage_;
};

}  // namespace afdet
