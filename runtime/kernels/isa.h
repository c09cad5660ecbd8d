// Which variant of the micro-kernels runs on this machine.
#pragma once

#include "gemm/gemm.h"

namespace edgepress {

// The fastest variant that the machine supports, or the one that the environment variable EDGEPRESS_ISA names.
// Throws Error if that is unknown or not supported here.
const Kernels& select_kernels();

}  // namespace edgepress
