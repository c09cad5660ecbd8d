#pragma once

#include "op.h"

namespace edgepress {

// Chooses the experts of each token and their weights; see OPS.md.
class Route {
 public:
  static constexpr const char* name = "Route";
  static constexpr Input inputs[] = {{TYPE_FLOAT}, {TYPE_FLOAT, INPUT_OPTIONAL}};
  static constexpr ONNXTensorElementDataType outputs[] = {TYPE_FLOAT, TYPE_INT64};

  explicit Route(const Node& node);
  void compute(const Context& call) const;

 private:
  enum class Score { softmax, sigmoid, softmax_topk, sparsemixer };

  void check(int64_t experts) const;
  void score(const float* logits, int64_t experts, float* scores) const;
  void limit_groups(float* choice, int64_t experts) const;
  void choose(const float* choice, int64_t experts, int64_t* chosen) const;
  void mix(const float* scores, int64_t experts, const int64_t* chosen, float* weights) const;
  void weigh(const float* scores, int64_t experts, const int64_t* chosen, float* weights) const;

  int64_t k_, groups_, kept_groups_;
  Score score_;
  bool normalize_, sum2_;
  float epsilon_, scaling_, margin_, skip_threshold_;
};

}  // namespace edgepress
