// The scan and suppress kernels once more, by hand: threadIdx, __syncthreads and CUB in place of
// the block policy. Only compiled, to see what the policy costs (compare.py); never linked.
#include <cuda_runtime.h>

#include <cub/block/block_scan.cuh>

#include "cuda/block_cuda.cuh"
#include "cuda/detect_args.hpp"
#include "cuda/detect_body.hpp"

using namespace afdet;

template <typename T>
__global__ void __launch_bounds__(kScanThreads)
    hand_scan_kernel(const __grid_constant__ DetectArgs args) {
  using V = Vector<T>;
  using Scan = cub::BlockScan<int32_t, kScanThreads>;
  constexpr int kVectors = kScanBytes / 16;
  __shared__ typename Scan::TempStorage scan_storage;
  __shared__ uint32_t shared_start;
  const Plan& plan = args.plan;
  const int thread = static_cast<int>(threadIdx.x);
  const int image = static_cast<int>(blockIdx.y);
  int chunk = static_cast<int>(blockIdx.x);
  int level = 0;
  while (chunk >= args.chunks[level]) chunk -= args.chunks[level++];
  const T* logits = image_logits<T>(args, level, image);
  const uint32_t pairs = static_cast<uint32_t>(plan.pairs(level));
  const uint32_t first = static_cast<uint32_t>(chunk) * (kScanThreads * kVectors * V::kSize);
  const float threshold = plan.logit_threshold;
  const bool aligned =
      reinterpret_cast<uintptr_t>(logits) % sizeof(V) == 0 && pairs % V::kSize == 0;
  const auto start_of = [&](int vector) {
    return first + static_cast<uint32_t>((vector * kScanThreads + thread) * V::kSize);
  };
  V vectors[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const uint32_t start = start_of(v);
    if (aligned && start < pairs) {
      vectors[v] = *reinterpret_cast<const V*>(logits + start);
    } else {
      for (int i = 0; i < V::kSize; ++i) {
        const uint32_t index = start + static_cast<uint32_t>(i);
        vectors[v].values[i] = logits[index < pairs ? index : 0];
      }
    }
  }
  uint32_t found = 0;
  for (int v = 0; v < kVectors; ++v) {
    for (int i = 0; i < V::kSize; ++i) {
      const bool inside = start_of(v) + static_cast<uint32_t>(i) < pairs;
      const bool above = to_float(vectors[v].values[i]) > threshold;
      found |= static_cast<uint32_t>(inside & above) << (v * V::kSize + i);
    }
  }
  int32_t place = static_cast<int32_t>(count_bits(found));
  int32_t total;
  Scan(scan_storage).ExclusiveSum(place, place, total);
  if (total == 0) return;
  if (thread == 0) {
    shared_start =
        atomicAdd(args.counts + image * plan.num_levels + level, static_cast<uint32_t>(total));
  }
  __syncthreads();
  uint32_t position = shared_start + static_cast<uint32_t>(place);
  Key* list = args.lists + static_cast<size_t>(image) * static_cast<size_t>(args.image_keys) +
              args.offset[level];
  const uint32_t capacity = static_cast<uint32_t>(args.capacity[level]);
  for (uint32_t bits = found; bits != 0 && position < capacity; bits &= bits - 1) {
    const int bit = lowest_bit(bits);
    const uint32_t index = start_of(bit / V::kSize) + static_cast<uint32_t>(bit % V::kSize);
    list[position++] = key_at(plan, level, index, to_float(logits[index]));
  }
}

template <typename T>
__global__ void __launch_bounds__(kSuppressThreads)
    hand_suppress_kernel(const __grid_constant__ DetectArgs args) {
  __shared__ SuppressShared shared;
  const Plan& plan = args.plan;
  const int thread = static_cast<int>(threadIdx.x);
  const int image = static_cast<int>(blockIdx.x);
  const int levels = plan.num_levels;
  const int most = plan.max_detections;
  const Key* lists = args.lists + static_cast<size_t>(image) * static_cast<size_t>(args.image_keys);
  const uint32_t* counts = args.counts + image * levels;
  const size_t first_row = static_cast<size_t>(image) * static_cast<size_t>(most);
  KeptBox* kept = most <= kSharedKept ? shared.kept : args.kept + first_row;
  float* boxes = args.out.boxes + first_row * 4;
  float* scores = args.out.scores + first_row;
  int32_t* classes = args.out.classes + first_row;
  if (thread < levels) shared.taken[thread] = 0;
  __syncthreads();
  int count = 0;
  while (count < most) {
    for (int i = thread; i < levels * kHelping; i += kSuppressThreads) {
      const int level = i / kHelping;
      const uint32_t place = shared.taken[level] + static_cast<uint32_t>(i % kHelping);
      const Key* list = lists + args.offset[level];
      shared.window[i] = place < counts[level] ? list[place] : kNoKey;
    }
    if (thread == 0) shared.ready = 0;
    __syncthreads();
    for (int i = thread; i < levels * kHelping; i += kSuppressThreads) {
      const Key key = shared.window[i];
      if (key == kNoKey) continue;
      const int level = i / kHelping;
      int rank = i % kHelping;
      for (int other = 0; other < levels && rank < kHelping; ++other) {
        if (other != level) rank += keys_below(shared.window + other * kHelping, key);
      }
      if (rank >= kHelping) continue;
      shared.keys[rank] = key;
      atomicAdd(&shared.taken[level], 1u);
      atomicAdd(&shared.ready, 1u);
    }
    __syncthreads();
    const int ready = static_cast<int>(shared.ready);
    if (ready == 0) break;
    bool open = false;
    if (thread < ready) {
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
      open = decode_box(grid.x(index), grid.y(index), to_float(distance[0]),
                        to_float(distance[points]), to_float(distance[2 * points]),
                        to_float(distance[3 * points]), grid.scale, plan.width, plan.height, &box);
      shared.boxes[thread] = {box, area(box),
                              plan.class_agnostic ? 0 : static_cast<int32_t>(class_id)};
    }
    __syncthreads();
    const int candidate = thread % kHelping;
    bool near = false;
    if (candidate < ready) {
      const KeptBox mine = shared.boxes[candidate];
      for (int i = thread / kHelping; i < count && !near; i += kSuppressThreads / kHelping) {
        near = kept[i].group == mine.group &&
               overlaps(kept[i].box, kept[i].area, mine.box, mine.area, plan.nms_iou);
      }
    }
    shared.near_kept[thread] = near;
    __syncthreads();
    for (int i = thread; i < kSuppressThreads; i += kHelping) {
      if (shared.near_kept[i]) open = false;
    }
    const uint32_t open_word = __ballot_sync(0xFFFFFFFFu, open);
    if (thread % 32 == 0) shared.alive[thread / 32] = open_word;
    __syncthreads();
    for (int i = thread; i < kHelping * kHelpingWords; i += kSuppressThreads) {
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
    __syncthreads();
    bool stays = open;
    bool changed = true;
    while (changed) {
      stays = open;
      for (int word = 0; stays && word * 32 < thread; ++word) {
        stays = (shared.overlap[word][thread] & shared.alive[word]) == 0;
      }
      const uint32_t stays_word = __ballot_sync(0xFFFFFFFFu, stays);
      if (thread % 32 == 0) shared.again[thread / 32] = stays_word;
      __syncthreads();
      changed = false;
      for (int word = 0; word < kHelpingWords; ++word) {
        changed |= shared.again[word] != shared.alive[word];
      }
      __syncthreads();
      if (thread < kHelpingWords) shared.alive[thread] = shared.again[thread];
      __syncthreads();
    }
    int total = 0;
    for (int word = 0; word < kHelpingWords; ++word) {
      total += static_cast<int>(count_bits(shared.alive[word]));
    }
    if (stays) {
      int place = count + static_cast<int>(
                              count_bits(shared.alive[thread / 32] & ((1u << (thread % 32)) - 1u)));
      for (int word = 0; word < thread / 32; ++word) {
        place += static_cast<int>(count_bits(shared.alive[word]));
      }
      if (place < most) {
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
      }
    }
    __syncthreads();
    count = count + total < most ? count + total : most;
  }
  if (thread == 0) args.out.num_detections[image] = count;
  for (int i = count + thread; i < most; i += kSuppressThreads) {
    for (int side = 0; side < 4; ++side) boxes[i * 4 + side] = 0.0f;
    scores[i] = 0.0f;
    classes[i] = -1;
  }
}

template __global__ void hand_scan_kernel<float>(const __grid_constant__ DetectArgs);
template __global__ void hand_scan_kernel<Half>(const __grid_constant__ DetectArgs);
template __global__ void hand_suppress_kernel<float>(const __grid_constant__ DetectArgs);
template __global__ void hand_suppress_kernel<Half>(const __grid_constant__ DetectArgs);
