#include "readers.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace edgepress {
namespace {

// Enough to keep a drive's queue filled: of 1, 2, 4 and 8, the speed of an NVMe drive grew up to 4.
constexpr int kThreads = 4;

#ifdef O_DIRECT
bool passes_cache(int file) { return fcntl(file, F_GETFL) & O_DIRECT; }
void pass_cache_no_more(int file) { fcntl(file, F_SETFL, 0); }
#else
bool passes_cache(int) { return false; }
void pass_cache_no_more(int) {}
#endif

int read_all(const Piece& piece) {
  for (int64_t got = 0; got < piece.needed;) {
    const ssize_t some =
        pread(piece.file, piece.to + got, static_cast<size_t>(piece.bytes - got), piece.offset + got);
    if (some > 0)
      got += some;
    else if (some == 0)
      return ENODATA;
    else if (errno == EINVAL && passes_cache(piece.file))
      pass_cache_no_more(piece.file);  // some file systems only say so now
    else if (errno != EINTR)
      return errno;
  }
  if (!passes_cache(piece.file)) forget_cached(piece.file, piece.offset, piece.bytes);
  return 0;
}

}  // namespace

void forget_cached(int file, int64_t offset, int64_t bytes) {
#ifdef POSIX_FADV_DONTNEED
  posix_fadvise(file, offset, bytes, POSIX_FADV_DONTNEED);
#else
  (void)file, (void)offset, (void)bytes;
#endif
}

Readers::Readers(std::function<void(const Piece&, int)> done) : done_(std::move(done)) {
  for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
}

Readers::~Readers() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Readers::read(const std::vector<Piece>& pieces) {
  if (pieces.empty()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.insert(queue_.end(), pieces.begin(), pieces.end());
  }
  wake_.notify_all();
}

void Readers::work() {
  for (;;) {
    Piece piece;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      piece = queue_.front();
      queue_.pop_front();
    }
    done_(piece, read_all(piece));
  }
}

}  // namespace edgepress
