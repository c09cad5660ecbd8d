#include "mapped_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "op.h"

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

namespace edgepress {

MappedFiles::~MappedFiles() {
  for (const auto& [identity, file] : files_) close(file);
}

FilePlace MappedFiles::find(const void* data, int64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data), end = begin + static_cast<uintptr_t>(bytes);
  const Mapping* mapping = covering(begin, end);
  if (!mapping) {
    refresh();
    mapping = covering(begin, end);
  }
  if (!mapping)
    throw Error("expert_memory needs weights that ONNX Runtime maps from a data file on Linux, these are not mapped");
  return {open(*mapping), mapping->offset + static_cast<int64_t>(begin - mapping->begin)};
}

// A line of /proc/self/maps: `begin-end permissions offset device inode path`; without a path it is no file.
void MappedFiles::refresh() {
  mappings_.clear();
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    Mapping mapping;
    std::string permissions, device;
    char dash;
    fields >> std::hex >> mapping.begin >> dash >> mapping.end >> permissions >> mapping.offset >> device >> std::dec >>
        mapping.inode >> std::ws;
    std::getline(fields, mapping.path);
    if (mapping.inode) mappings_.push_back(std::move(mapping));
  }
}

const MappedFiles::Mapping* MappedFiles::covering(uintptr_t begin, uintptr_t end) const {
  auto next = std::upper_bound(mappings_.begin(), mappings_.end(), begin,
                               [](uintptr_t address, const Mapping& mapping) { return address < mapping.begin; });
  return next != mappings_.begin() && end <= (--next)->end ? &*next : nullptr;
}

int MappedFiles::open(const Mapping& mapping) {
  const std::pair identity(mapping.path, mapping.inode);
  const auto found = files_.find(identity);
  if (found != files_.end()) return found->second;
  int file = ::open(mapping.path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (file < 0 && errno == EINVAL) file = ::open(mapping.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Error("cannot open " + mapping.path + ": " + std::strerror(errno));
  struct stat status;
  if (fstat(file, &status) || status.st_ino != mapping.inode) {
    close(file);
    throw Error(mapping.path + " was replaced after it was loaded; open the session again");
  }
  return files_[identity] = file;
}

}  // namespace edgepress
