// libafdet_emulated: the source of the detection kernels on the CPU, for tests. It implements the
// C ABI of afdet/cuda.h on host memory and ignores the stream.
#include <cstring>
#include <new>

#include "emulated/block.hpp"
// The kernels use the policy, so it comes first.
#include "cuda/detect_select.hpp"
#include "cuda/detect_suppress.hpp"
#include "emulated/order.hpp"

namespace afdet {

// 0: threads and blocks in order; 1: reversed; other values: the seed of a shuffle.
static uint32_t order_seed = 0;

uint32_t emulated_order() { return order_seed; }

namespace {

using ScanBlock = EmulatedBlock<kScanThreads, ScanShared>;
template <int kSort>
using SelectBlock = EmulatedBlock<kSelectThreads, SelectShared, kSort>;
using SuppressBlock = EmulatedBlock<kSuppressThreads, SuppressShared>;

template <typename T>
void launch(const DetectArgs& args, int32_t batch) {
  const int levels = args.params.num_levels;
  int chunks = 0;
  for (int level = 0; level < levels; ++level) chunks += args.chunks[level];
  std::memset(args.counts, 0, sizeof(uint32_t) * static_cast<size_t>(levels * batch));
  for_blocks<ScanBlock>(chunks, batch, order_seed, [&](ScanBlock& block) { scan<T>(block, args); });
  if (args.few) {
    using Block = SelectBlock<kFewSorted>;
    for_blocks<Block>(levels, batch, order_seed, [&](Block& block) { select<T>(block, args); });
  } else {
    using Block = SelectBlock<kManySorted>;
    for_blocks<Block>(levels, batch, order_seed, [&](Block& block) { select<T>(block, args); });
  }
  for_blocks<SuppressBlock>(batch, 1, order_seed,
                            [&](SuppressBlock& block) { suppress<T>(block, args); });
}

}  // namespace
}  // namespace afdet

void afdet_emulated_set_order(uint32_t seed) { afdet::order_seed = seed; }

int32_t afdet_cuda_abi_version(void) { return AFDET_ABI_VERSION; }

const char* afdet_cuda_build_info(void) { return "the CUDA kernels' source, run on the CPU"; }

AfdetStatus afdet_cuda_detect_workspace(const AfdetParams* params, int32_t dtype, int32_t batch,
                                        size_t* bytes) {
  if (bytes == nullptr) return AFDET_ERROR_NULL_POINTER;
  afdet::DetectArgs args;
  size_t needed = 0;
  const AfdetStatus status = afdet::lay_out(params, dtype, batch, nullptr, &args, &needed);
  if (status == AFDET_OK) *bytes = needed;
  return status;
}

AfdetStatus afdet_cuda_detect(const AfdetParams* params, const void* const* heads, int32_t dtype,
                              int32_t batch, const AfdetDetections* out, void* workspace,
                              size_t workspace_bytes, AfdetStream) {
  afdet::DetectArgs args;
  const AfdetStatus status =
      afdet::prepare(params, heads, dtype, batch, out, workspace, workspace_bytes, &args);
  if (status != AFDET_OK) return status;
  // On the GPU its contents are undefined.
  std::memset(workspace, afdet::Order(afdet::order_seed).garbage(), workspace_bytes);
  try {
    if (dtype == AFDET_FLOAT16) {
      afdet::launch<afdet::Half>(args, batch);
    } else {
      afdet::launch<float>(args, batch);
    }
  } catch (const std::bad_alloc&) {
    return AFDET_ERROR_NO_MEMORY;
  }
  return AFDET_OK;
}
