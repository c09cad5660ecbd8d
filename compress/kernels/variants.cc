// Which variants of quantize.cc this machine runs.

// Their names, separated by spaces, the fastest first; the function is called edgepress_quantize_<name>.
extern "C" __attribute__((visibility("default"))) const char* edgepress_quantize_variants() {
#ifdef EDGEPRESS_X86
  if (__builtin_cpu_supports("avx512f")) return "avx512 avx2 portable";
  if (__builtin_cpu_supports("avx2")) return "avx2 portable";
#endif
  return "portable";
}
