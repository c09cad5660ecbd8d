// The library's one exported symbol.
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "attention.h"
#include "experts.h"
#include "linear.h"
#include "route.h"

using namespace edgepress;

namespace {

// A session's entry that bounds the bytes of experts in memory; to be added before the library is registered.
constexpr const char* kExpertMemory = "edgepress.expert_memory";

// The ops of the sessions made from one OrtSessionOptions. ONNX Runtime keeps pointers to them.
struct Ops {
  std::unique_ptr<SharedResidency> residency;
  Definition<Route> route;
  Definition<Experts> experts;
  Definition<Linear> linear;
  Definition<Attention> attention;
  OrtCustomOpDomain* domain = nullptr;

  explicit Ops(int64_t bound)
      : residency(bound ? std::make_unique<SharedResidency>(bound) : nullptr), experts(residency.get()) {}

  OrtStatus* create_domain(const OrtApi& api) {
    OrtStatus* status = api.CreateCustomOpDomain("edgepress", &domain);
    for (const OrtCustomOp* op : std::initializer_list<const OrtCustomOp*>{&route, &experts, &linear, &attention})
      if (!status) status = api.CustomOpDomain_Add(domain, op);
    return status;
  }
};

// All that were made live as long as the library, for nothing tells when their last session is gone. Sessions without a
// bound share one.
OrtStatus* find_domain(const OrtApi& api, int64_t bound, OrtCustomOpDomain** out) {
  static std::vector<std::unique_ptr<Ops>> made;
  static OrtCustomOpDomain* unbounded = nullptr;
  static std::mutex creating;
  const std::lock_guard<std::mutex> lock(creating);
  if (bound || !unbounded) {
    made.push_back(std::make_unique<Ops>(bound));
    if (OrtStatus* status = made.back()->create_domain(api)) return status;
    if (!bound) unbounded = made.back()->domain;
  }
  *out = bound ? made.back()->domain : unbounded;
  return nullptr;
}

// 0 where the session has no such entry.
OrtStatus* read_bound(const OrtApi& api, const OrtSessionOptions* options, int64_t* bound) {
  size_t size = 0;
  *bound = 0;
  if (OrtStatus* absent = api.GetSessionConfigEntry(options, kExpertMemory, nullptr, &size)) {
    api.ReleaseStatus(absent);
    return nullptr;
  }
  std::string text(size, '\0');
  if (OrtStatus* status = api.GetSessionConfigEntry(options, kExpertMemory, text.data(), &size)) return status;
  text.resize(size - 1);  // without the terminating zero
  if (!text.empty() && text.size() <= 18 && text.find_first_not_of("0123456789") == std::string::npos)
    *bound = std::strtoll(text.c_str(), nullptr, 10);
  if (*bound) return nullptr;
  const std::string message = std::string(kExpertMemory) + " is \"" + text + "\"; give a number of bytes";
  return api.CreateStatus(ORT_INVALID_ARGUMENT, message.c_str());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (!api) return base->GetApi(1)->CreateStatus(ORT_INVALID_ARGUMENT, "edgepress needs ONNX Runtime 1.17 or newer");
  OrtCustomOpDomain* domain = nullptr;
  int64_t bound;
  OrtStatus* status = read_bound(*api, options, &bound);
  if (!status) status = find_domain(*api, bound, &domain);
  return status ? status : api->AddCustomOpDomain(options, domain);
}
