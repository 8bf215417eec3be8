// What the emulation offers beyond afdet/cuda.h.
#pragma once

#include <cstdint>

#include "afdet/types.h"

// In which order threads and blocks take their turns: 0 as counted, 1 reversed, else shuffled by
// the seed. Not for use while a call is running.
extern "C" AFDET_API void afdet_emulated_set_order(uint32_t seed);

namespace afdet {

// The order that was set.
uint32_t emulated_order();

}  // namespace afdet
