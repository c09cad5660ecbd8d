// The variants of the micro-kernels; isa.cc chooses between them.
#pragma once

#include "gemm.h"

namespace edgepress {
namespace reference {
extern const Kernels kernels;
}
namespace portable {
extern const Kernels kernels;
}
namespace portable16 {  // with the lanes of AVX-512, so that any machine can test the algorithm at that width
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avxvnni {
extern const Kernels kernels;
}
namespace avx512vnni {
extern const Kernels kernels;
}
namespace neon_dotprod {
extern const Kernels kernels;
}
namespace neon_i8mm {
extern const Kernels kernels;
}
}  // namespace edgepress
