// Which variant of the micro-kernels runs on this machine.
#pragma once

#include <vector>

#include "gemm/gemm.h"

namespace edgepress {

// The fastest variant that the machine supports, or the one that the environment variable EDGEPRESS_ISA names.
// Throws Error if that is unknown or not supported here.
const Kernels& select_kernels();

// Every variant that the machine supports, fastest first, the reference last.
const std::vector<const Kernels*>& supported_kernels();

}  // namespace edgepress
