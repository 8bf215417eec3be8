// Arguments of the detection kernels: sizes, and addresses in the workspace.
#pragma once

#include <algorithm>

#include "afdet/cuda.h"
#include "core/box.hpp"
#include "core/half.hpp"
#include "core/params.hpp"

namespace afdet {

constexpr int kScanThreads = 256;
constexpr int kSelectThreads = 512;
constexpr int kSuppressThreads = 512;

// Bytes of logits that a thread loads at a time.
constexpr int kLoadBytes = 64;

// Capacity of a level's list of candidates. If a level has more, its logits are read again; the
// result stays exact and takes longer. Five such lists and their sorted parts stay below 1 MiB.
constexpr int32_t kListCapacity = 24576;

// Candidates that a block sorts at a time. Selection ends as soon as the rest fits, so the smaller
// sort works for limits up to half its size.
constexpr int32_t kFewSorted = 2048;
constexpr int32_t kManySorted = 4096;

// Detections that fit in shared memory; more are kept in the workspace.
constexpr int32_t kSharedKept = 512;

// A decoded candidate. Two 16-byte loads.
struct alignas(16) Candidate {
  Box box;
  float area;
  int32_t group;  // only candidates of one group suppress each other
  int32_t next;   // the next kept candidate of the same bucket, or -1
  int32_t unused;
};

struct DetectArgs {
  DecodeParams params;
  const void* heads[2 * AFDET_MAX_LEVELS];
  AfdetDetections out;
  int32_t chunks[AFDET_MAX_LEVELS];         // blocks of the scan
  int32_t capacity[AFDET_MAX_LEVELS];       // of the level's list
  int32_t list_offset[AFDET_MAX_LEVELS];    // of the level's list within the image's
  int32_t sorted_offset[AFDET_MAX_LEVELS];  // of the level's best within the image's
  int32_t image_listed;                     // keys of all lists of an image
  int32_t image_sorted;
  bool few;          // the smaller sort is enough
  uint32_t* counts;  // [N, levels] candidates found, then selected
  Key* lists;        // [N, image_listed], unordered
  Key* sorted;       // [N, image_sorted]
  Candidate* kept;   // [N, max_detections], null if shared memory holds them
};

// Number of the level's candidates that go on to NMS.
AFDET_HD int32_t most_of_level(const DecodeParams& params, int level) {
  const int32_t pairs = params.pairs(level);
  return params.candidates_per_level < pairs ? params.candidates_per_level : pairs;
}

// Computes the size of the workspace, and its layout if `workspace` is not null.
inline AfdetStatus lay_out(const AfdetParams* given, int32_t dtype, int32_t batch, void* workspace,
                           DetectArgs* args, size_t* bytes) {
  const AfdetStatus status = make_decode_params(given, &args->params);
  if (status != AFDET_OK) return status;
  if (dtype != AFDET_FLOAT32 && dtype != AFDET_FLOAT16) return AFDET_ERROR_DTYPE;
  if (batch < 1 || batch > 65535) return AFDET_ERROR_BATCH;
  const DecodeParams& params = args->params;
  const int32_t chunk = kScanThreads * kLoadBytes / (dtype == AFDET_FLOAT16 ? 2 : 4);
  args->image_listed = 0;
  args->image_sorted = 0;
  args->few = true;
  for (int level = 0; level < params.num_levels; ++level) {
    const int32_t pairs = params.pairs(level);
    const int32_t most = most_of_level(params, level);
    args->chunks[level] = (pairs + chunk - 1) / chunk;
    args->capacity[level] = std::min(pairs, kListCapacity);
    args->list_offset[level] = args->image_listed;
    args->sorted_offset[level] = args->image_sorted;
    args->image_listed += args->capacity[level];
    args->image_sorted += most;
    args->few = args->few && (most <= kFewSorted / 2 || pairs <= kFewSorted);
  }
  const size_t images = static_cast<size_t>(batch);
  size_t end = 0;
  const auto take = [&](size_t each) {
    const size_t start = end;
    end = (end + images * each + 255) / 256 * 256;
    return workspace == nullptr ? nullptr : static_cast<char*>(workspace) + start;
  };
  const auto keys = [](int32_t count) { return static_cast<size_t>(count) * sizeof(Key); };
  args->counts =
      reinterpret_cast<uint32_t*>(take(static_cast<size_t>(params.num_levels) * sizeof(uint32_t)));
  args->lists = reinterpret_cast<Key*>(take(keys(args->image_listed)));
  args->sorted = reinterpret_cast<Key*>(take(keys(args->image_sorted)));
  args->kept = nullptr;
  if (params.max_detections > kSharedKept) {
    args->kept = reinterpret_cast<Candidate*>(
        take(static_cast<size_t>(params.max_detections) * sizeof(Candidate)));
  }
  *bytes = end;
  return AFDET_OK;
}

// Checks all inputs of a detection and fills the arguments.
inline AfdetStatus prepare(const AfdetParams* given, const void* const* heads, int32_t dtype,
                           int32_t batch, const AfdetDetections* out, void* workspace,
                           size_t workspace_bytes, DetectArgs* args) {
  size_t needed = 0;
  const AfdetStatus status = lay_out(given, dtype, batch, workspace, args, &needed);
  if (status != AFDET_OK) return status;
  if (heads == nullptr || out == nullptr || workspace == nullptr ||
      out->num_detections == nullptr || out->boxes == nullptr || out->scores == nullptr ||
      out->classes == nullptr) {
    return AFDET_ERROR_NULL_POINTER;
  }
  if (workspace_bytes < needed || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return AFDET_ERROR_WORKSPACE;
  }
  for (int i = 0; i < 2 * args->params.num_levels; ++i) {
    if (heads[i] == nullptr) return AFDET_ERROR_NULL_POINTER;
    args->heads[i] = heads[i];
  }
  args->out = *out;
  return AFDET_OK;
}

// Addresses of one level's data of an image.
AFDET_HD uint32_t* count_of(const DetectArgs& args, int level, int image) {
  return args.counts + static_cast<size_t>(image) * static_cast<size_t>(args.params.num_levels) +
         level;
}

AFDET_HD Key* list_of(const DetectArgs& args, int level, int image) {
  return args.lists + static_cast<size_t>(image) * static_cast<size_t>(args.image_listed) +
         args.list_offset[level];
}

AFDET_HD Key* sorted_of(const DetectArgs& args, int level, int image) {
  return args.sorted + static_cast<size_t>(image) * static_cast<size_t>(args.image_sorted) +
         args.sorted_offset[level];
}

}  // namespace afdet
