// Functions of the emulation in addition to afdet/cuda.h.
#pragma once

#include <cstdint>

#include "afdet/types.h"

// Sets the order of threads and blocks: 0 ascending, 1 reversed, other values seed a shuffle. Do
// not call it while another call is running.
extern "C" AFDET_API void afdet_emulated_set_order(uint32_t seed);

namespace afdet {

// The current order.
uint32_t emulated_order();

}  // namespace afdet
