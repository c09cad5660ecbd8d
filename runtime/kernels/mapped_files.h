// From an address inside a mapped file to the file behind it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace edgepress {

struct FilePlace {
  int file;  // opened for reading, past the page cache where the file system allows that
  int64_t offset;
};

// The files that this process maps, opened as they are asked for and closed with this object. Not thread-safe.
class MappedFiles {
 public:
  MappedFiles() = default;
  MappedFiles(const MappedFiles&) = delete;
  MappedFiles& operator=(const MappedFiles&) = delete;
  ~MappedFiles();

  // Throws Error unless all `bytes` bytes lie in one mapping of a regular file that can be opened.
  FilePlace find(const void* data, int64_t bytes);

  // Look for them anew: files may have been unmapped, and others mapped where they were.
  void forget_mappings() { mappings_.clear(); }

 private:
  struct Mapping {
    uintptr_t begin, end;
    int64_t offset;
    unsigned long inode;
    std::string path;
  };
  void refresh();
  const Mapping* covering(uintptr_t begin, uintptr_t end) const;
  int open(const Mapping& mapping);

  std::vector<Mapping> mappings_;  // by address
  std::map<std::pair<std::string, unsigned long>, int> files_;  // by path and inode: a path may be given to another
};

}  // namespace edgepress
