// Memory of tensors that ends where they end.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace fake {

// Memory whose ends lie before unreadable pages: sanitizers do not look into masked vector loads.
class GuardedSlots {
 public:
  static constexpr size_t kBytes = 1 << 16, kSlots = 128;

  GuardedSlots() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* all = mmap(nullptr, kSlots * stride(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    for (size_t i = 0; i < kSlots; ++i) {
      uint8_t* slot = static_cast<uint8_t*>(all) + i * stride();
      if (mprotect(slot + kBytes, page_, PROT_NONE)) throw std::bad_alloc();
      free_.push_back(slot);
    }
  }
  // Null where all are in use.
  uint8_t* take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return nullptr;
    uint8_t* slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void give(uint8_t* slot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(slot);
  }

 private:
  size_t stride() const { return kBytes + page_; }

  size_t page_;
  std::mutex mutex_;
  std::vector<uint8_t*> free_;
};

inline GuardedSlots& guarded_slots() {
  static GuardedSlots slots;
  return slots;
}

class Buffer {
 public:
  // An empty tensor has no memory, as in ONNX Runtime.
  Buffer(size_t bytes, bool guarded) {
    if (guarded && bytes && bytes <= GuardedSlots::kBytes) slot_ = guarded_slots().take();
    if (!slot_ && bytes) heap_.reset(new uint8_t[bytes]);
    data = slot_ ? slot_ + GuardedSlots::kBytes - bytes : heap_.get();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() {
    if (slot_) guarded_slots().give(slot_);
  }

  uint8_t* data;

 private:
  uint8_t* slot_ = nullptr;
  std::unique_ptr<uint8_t[]> heap_;
};

}  // namespace fake
