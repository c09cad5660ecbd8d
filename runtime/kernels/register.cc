// The library's one exported symbol.
#include <initializer_list>
#include <mutex>

#include "experts.h"
#include "linear.h"
#include "route.h"

using namespace edgepress;

namespace {

// One domain serves every session; it lives as long as the library.
OrtStatus* shared_domain(const OrtApi& api, OrtCustomOpDomain** out) {
  static const Definition<Route> route;
  static const Definition<Experts> experts;
  static const Definition<Linear> linear;
  static OrtCustomOpDomain* domain = nullptr;
  static std::mutex creating;
  const std::lock_guard<std::mutex> lock(creating);
  if (!domain) {
    OrtStatus* status = api.CreateCustomOpDomain("edgepress", &domain);
    for (const OrtCustomOp* op : std::initializer_list<const OrtCustomOp*>{&route, &experts, &linear})
      if (!status) status = api.CustomOpDomain_Add(domain, op);
    if (status) return status;
  }
  *out = domain;
  return nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (!api) return base->GetApi(1)->CreateStatus(ORT_INVALID_ARGUMENT, "edgepress needs ONNX Runtime 1.17 or newer");
  OrtCustomOpDomain* domain = nullptr;
  OrtStatus* status = shared_domain(*api, &domain);
  return status ? status : api->AddCustomOpDomain(options, domain);
}
