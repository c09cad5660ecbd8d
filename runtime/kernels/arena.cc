#include "arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "op.h"

namespace edgepress {

Arena::Arena(int64_t bytes) : bytes_(bytes) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw Error("cannot reserve expert_memory of " + std::to_string(bytes) + " bytes: " + std::strerror(errno));
  memory_ = static_cast<uint8_t*>(memory);
#ifdef MADV_HUGEPAGE
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // direct reads into small pages are half as fast
#endif
  gaps_[0] = bytes;
}

Arena::~Arena() { munmap(memory_, static_cast<size_t>(bytes_)); }

uint8_t* Arena::take(int64_t bytes) {
  for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
    const auto [offset, size] = *gap;
    if (size < bytes) continue;
    gaps_.erase(gap);
    if (size > bytes) gaps_[offset + bytes] = size - bytes;
    return memory_ + offset;
  }
  return nullptr;
}

void Arena::give_back(uint8_t* run, int64_t bytes) {
  int64_t offset = run - memory_;
  auto next = gaps_.lower_bound(offset);
  if (next != gaps_.end() && offset + bytes == next->first) {
    bytes += next->second;
    next = gaps_.erase(next);
  }
  if (next != gaps_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  gaps_[offset] = bytes;
}

}  // namespace edgepress
