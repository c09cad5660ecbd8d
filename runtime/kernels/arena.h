// A fixed stretch of memory, handed out in runs.
#pragma once

#include <cstdint>
#include <map>

namespace edgepress {

// Takes real memory only where it was written to. Not thread-safe.
class Arena {
 public:
  explicit Arena(int64_t bytes);  // throws Error where the address space has no room
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // The first gap of `bytes` bytes, a multiple of the page size; null where there is none.
  uint8_t* take(int64_t bytes);
  void give_back(uint8_t* run, int64_t bytes);

 private:
  int64_t bytes_;
  uint8_t* memory_;
  std::map<int64_t, int64_t> gaps_;  // offset -> bytes; no two touch
};

}  // namespace edgepress
