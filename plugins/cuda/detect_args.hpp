// What the detection kernels are given: sizes, and where everything lies in the workspace.
#pragma once

#include <algorithm>

#include "afdet/cuda.h"
#include "core/box.hpp"
#include "core/half.hpp"
#include "core/params.hpp"

namespace afdet {

constexpr int kScanThreads = 256;
constexpr int kScanBytes = 64;  // of logits per thread
constexpr int kSelectThreads = 512;
constexpr int kSuppressThreads = 512;

// Candidates of a level that are listed as they are found. If there are more, the level's logits
// are read again: exact all the same, only slower.
constexpr int32_t kListCapacity = 16384;

// Most candidates_per_level: what one block sorts in shared memory. Up to kFewSorted it sorts
// faster.
constexpr int32_t kFewSorted = 1024;
constexpr int32_t kMostSorted = 4096;

// Detections kept in shared memory; more lie in the workspace.
// As many as the 48 KiB that every GPU gives a block allow.
constexpr int32_t kSharedKept = 512;

struct KeptBox {
  Box box;
  float area;
  int32_t group;
};

struct DetectArgs {
  Plan plan;
  const void* heads[2 * AFDET_MAX_LEVELS];
  AfdetDetections out;
  int32_t chunks[AFDET_MAX_LEVELS];    // blocks of the scan
  int32_t capacity[AFDET_MAX_LEVELS];  // of the level's list
  int32_t offset[AFDET_MAX_LEVELS];    // of the level's list within the image's lists
  int32_t image_keys;                  // keys of all lists of an image
  uint32_t* counts;                    // [N, levels] candidates found
  Key* lists;                          // [N, image_keys]
  KeptBox* kept;                       // [N, max_detections], if these are many
};

// The level's share of the image's candidates that go on to NMS.
AFDET_HD int32_t most_of_level(const Plan& plan, int level) {
  const int32_t pairs = plan.pairs(level);
  return plan.candidates_per_level < pairs ? plan.candidates_per_level : pairs;
}

// Sizes the workspace, and lays it out if there is one.
inline AfdetStatus lay_out(const AfdetParams* params, int32_t dtype, int32_t batch, void* workspace,
                           DetectArgs* args, size_t* bytes) {
  const AfdetStatus status = make_plan(params, &args->plan);
  if (status != AFDET_OK) return status;
  if (dtype != AFDET_FLOAT32 && dtype != AFDET_FLOAT16) return AFDET_ERROR_DTYPE;
  if (batch < 1 || batch > 65535) return AFDET_ERROR_BATCH;
  const Plan& plan = args->plan;
  const int32_t values = kScanThreads * kScanBytes / (dtype == AFDET_FLOAT16 ? 2 : 4);
  args->image_keys = 0;
  for (int level = 0; level < plan.num_levels; ++level) {
    const int32_t pairs = plan.pairs(level);
    const int32_t most = most_of_level(plan, level);
    if (most > kMostSorted) return AFDET_ERROR_LIMITS;
    args->chunks[level] = (pairs + values - 1) / values;
    args->capacity[level] = std::max(most, std::min(pairs, kListCapacity));
    args->offset[level] = args->image_keys;
    args->image_keys += args->capacity[level];
  }
  const size_t images = static_cast<size_t>(batch);
  size_t end = 0;
  const auto take = [&](size_t size) {
    const size_t start = end;
    end = (end + size + 255) / 256 * 256;
    return workspace == nullptr ? nullptr : static_cast<char*>(workspace) + start;
  };
  args->counts = reinterpret_cast<uint32_t*>(
      take(images * static_cast<size_t>(plan.num_levels) * sizeof(uint32_t)));
  args->lists =
      reinterpret_cast<Key*>(take(images * static_cast<size_t>(args->image_keys) * sizeof(Key)));
  const size_t kept = plan.max_detections > kSharedKept
                          ? images * static_cast<size_t>(plan.max_detections) * sizeof(KeptBox)
                          : 0;
  args->kept = reinterpret_cast<KeptBox*>(take(kept));
  *bytes = end;
  return AFDET_OK;
}

// Checks everything that a detection is given and fills the arguments.
inline AfdetStatus prepare(const AfdetParams* params, const void* const* heads, int32_t dtype,
                           int32_t batch, const AfdetDetections* out, void* workspace,
                           size_t workspace_bytes, DetectArgs* args) {
  size_t needed = 0;
  const AfdetStatus status = lay_out(params, dtype, batch, workspace, args, &needed);
  if (status != AFDET_OK) return status;
  if (heads == nullptr || out == nullptr || workspace == nullptr ||
      out->num_detections == nullptr || out->boxes == nullptr || out->scores == nullptr ||
      out->classes == nullptr) {
    return AFDET_ERROR_NULL_POINTER;
  }
  if (workspace_bytes < needed || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return AFDET_ERROR_WORKSPACE;
  }
  for (int i = 0; i < 2 * args->plan.num_levels; ++i) {
    if (heads[i] == nullptr) return AFDET_ERROR_NULL_POINTER;
    args->heads[i] = heads[i];
  }
  args->out = *out;
  return AFDET_OK;
}

}  // namespace afdet
