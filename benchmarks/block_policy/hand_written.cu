// Hand-written versions of the scan and suppress kernels, with threadIdx, __syncthreads and CUB
// instead of the block policy. compare.py only compiles them, to measure the cost of the policy.
#include <cub/block/block_scan.cuh>

#include "cuda/block.cuh"
#include "cuda/detect_suppress.hpp"

using namespace afdet;

template <typename T>
__global__ void __launch_bounds__(kScanThreads)
    hand_scan_kernel(const __grid_constant__ DetectArgs args) {
  using Scan = cub::BlockScan<int32_t, kScanThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ typename Scan::TempStorage scan_storage;
  __shared__ uint32_t shared_start;

  const int thread = static_cast<int>(threadIdx.x);
  const int image = static_cast<int>(blockIdx.y);
  int chunk = static_cast<int>(blockIdx.x);
  int level = 0;
  while (chunk >= args.chunks[level]) chunk -= args.chunks[level++];
  const Logits<T> logits(args, level, image);
  const uint32_t place = static_cast<uint32_t>(chunk);

  uint32_t found = logits.template find<kScanThreads>(place, thread);
  int32_t before, total;
  Scan(scan_storage).ExclusiveSum(static_cast<int32_t>(count_bits(found)), before, total);
  if (total == 0) return;
  if (thread == 0) {
    shared_start = atomicAdd(count_of(args, level, image), static_cast<uint32_t>(total));
  }
  __syncthreads();
  uint32_t position = shared_start + static_cast<uint32_t>(before);
  const uint32_t capacity = static_cast<uint32_t>(args.capacity[level]);
  Key* list = list_of(args, level, image);
  for (; found != 0 && position < capacity; found &= found - 1) {
    list[position++] =
        logits.key(logits.template index<kScanThreads>(place, thread, lowest_bit(found)));
  }
}

// The number of earlier threads with the flag, and the total.
__device__ __forceinline__ int rank_by_hand(bool flag, uint32_t* warps, int* total) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t word = __ballot_sync(0xFFFFFFFFu, flag);
  if (lane == 0) warps[warp] = static_cast<uint32_t>(__popc(word));
  __syncthreads();
  uint32_t before = static_cast<uint32_t>(__popc(word & ((1u << lane) - 1u)));
  uint32_t all = 0;
#pragma unroll
  for (uint32_t other = 0; other < kSuppressThreads / 32; ++other) {
    before += other < warp ? warps[other] : 0;
    all += warps[other];
  }
  *total = static_cast<int>(all);
  return static_cast<int>(before);
}

template <typename T>
__global__ void __launch_bounds__(kSuppressThreads)
    hand_suppress_kernel(const __grid_constant__ DetectArgs args) {
  __shared__ SuppressShared shared;
  __shared__ uint32_t warps[2][kSuppressThreads / 32];
  const DecodeParams& params = args.params;
  const int thread = static_cast<int>(threadIdx.x);
  const int image = static_cast<int>(blockIdx.x);
  const int most = params.max_detections;
  const size_t first_row = static_cast<size_t>(image) * static_cast<size_t>(most);
  Candidate* kept = args.kept == nullptr ? shared.kept : args.kept + first_row;
  float* boxes = args.out.boxes + first_row * 4;
  float* scores = args.out.scores + first_row;
  int32_t* classes = args.out.classes + first_row;

  for (int i = thread; i < kBuckets; i += kSuppressThreads) shared.bucket[i] = -1;
  if (thread < AFDET_MAX_LEVELS) {
    shared.progress.count[thread] = thread < params.num_levels ? *count_of(args, thread, image) : 0;
    shared.progress.taken[thread] = 0;
  }
  __syncthreads();
  const uint32_t total = total_of(shared.progress);

  int turn = 0;
  int count = 0;
  for (uint32_t walked = 0; walked < total && count < most; walked += kSuppressThreads) {
    const auto load = [&](int level) {
      const uint32_t place = shared.progress.taken[level] + static_cast<uint32_t>(thread);
      return place < shared.progress.count[level] ? sorted_of(args, level, image)[place] : kNoKey;
    };
    uint32_t left = levels_left(shared.progress);
    int current = 0;
    Key ahead = kNoKey;
    shared.merged[0][thread] = load(lowest_bit(left));
    left &= left - 1;
    if (left != 0) ahead = load(lowest_bit(left));
    __syncthreads();
    for (; left != 0; left &= left - 1) {
      shared.window[thread] = ahead;
      const uint32_t rest = left & (left - 1);
      if (rest != 0) ahead = load(lowest_bit(rest));
      __syncthreads();
      shared.merged[1 - current][thread] =
          merged_key(shared.merged[current], shared.window, thread);
      __syncthreads();
      current = 1 - current;
    }
    const Key key = shared.merged[current][thread];
    Candidate mine;
    bool open = false;
    if (key != kNoKey) {
      atomicAdd(&shared.progress.taken[key_level(key)], 1u);
      open = decode<T>(args, image, key, &mine);
      if (open) {
        int32_t i = shared.bucket[mine.group % kBuckets];
        for (; i >= 0 && open; i = kept[i].next) open = !removes(kept[i], mine, params.nms_iou);
      }
    }
    __syncthreads();
    int open_count;
    int rank = rank_by_hand(open, warps[turn ^= 1], &open_count);
    while (open_count > 0 && count < most) {
      if (open && rank < kChunk) shared.chunk[rank] = mine;
      __syncthreads();
      const int size = open_count < kChunk ? open_count : kChunk;
      for (int item = thread; item < kChunk * kChunk / 8; item += kSuppressThreads) {
        const int earlier = item % kChunk;
        const int first = item / kChunk * 8;
        unsigned char bits = 0;
        if (earlier < size && earlier < first + 7) {
          const Candidate candidate = shared.chunk[earlier];
          for (int i = 0; i < 8; ++i) {
            const int later = first + i;
            if (later > earlier && later < size &&
                removes(candidate, shared.chunk[later], params.nms_iou)) {
              bits = static_cast<unsigned char>(bits | (1u << i));
            }
          }
        }
        reinterpret_cast<unsigned char*>(&shared.removes[earlier])[item / kChunk] = bits;
      }
      __syncthreads();
      if (thread == 0) {
        uint64_t unsettled = size < 64 ? (uint64_t{1} << size) - 1 : ~uint64_t{0};
        uint64_t stays = 0;
        while (unsettled != 0) {
          const uint64_t first = unsettled & (~unsettled + 1);
          stays |= first;
          unsettled &= ~(first | shared.removes[lowest_bit(unsettled)]);
        }
        shared.stays = stays;
      }
      __syncthreads();
      const uint64_t stays = shared.stays;
      if (open && rank >= kChunk) {
        for (uint64_t bits = stays; bits != 0 && open; bits &= bits - 1) {
          open = !removes(shared.chunk[lowest_bit(bits)], mine, params.nms_iou);
        }
      } else if (open) {
        open = false;
        const uint64_t own = uint64_t{1} << rank;
        const int place = count + static_cast<int>(count_bits(stays & (own - 1)));
        if ((stays & own) != 0 && place < most) {
          mine.next = atomicExch(&shared.bucket[mine.group % kBuckets], place);
          kept[place] = mine;
          boxes[place * 4 + 0] = mine.box.x1;
          boxes[place * 4 + 1] = mine.box.y1;
          boxes[place * 4 + 2] = mine.box.x2;
          boxes[place * 4 + 3] = mine.box.y2;
          scores[place] = key_logit(key);
          classes[place] = class_of(params, key);
        }
      }
      __syncthreads();
      count += static_cast<int>(count_bits(stays));
      rank = rank_by_hand(open, warps[turn ^= 1], &open_count);
    }
  }
  count = count < most ? count : most;
  __syncthreads();
  if (thread == 0) args.out.num_detections[image] = count;
  for (int i = thread; i < most; i += kSuppressThreads) {
    if (i < count) {
      scores[i] = sigmoid(scores[i]);
      continue;
    }
    for (int side = 0; side < 4; ++side) boxes[i * 4 + side] = 0.0f;
    scores[i] = 0.0f;
    classes[i] = -1;
  }
}

template __global__ void hand_scan_kernel<Half>(const __grid_constant__ DetectArgs);
template __global__ void hand_scan_kernel<float>(const __grid_constant__ DetectArgs);
template __global__ void hand_suppress_kernel<Half>(const __grid_constant__ DetectArgs);
template __global__ void hand_suppress_kernel<float>(const __grid_constant__ DetectArgs);
