#include "linear.h"

#include "isa.h"
#include "tile.h"

namespace edgepress {

Linear::Linear(const Node& node)
    : kernels_(select_kernels()),
      format_(bank_format(node.integer("bits", 0), node.integer("asymmetric", 0))),
      block_(block_size(node)),
      biased_(node.flag("biased")),
      quantized_(quantized_kernels(node, kernels_)) {
  if (format_.bits == 16) quantized_ = nullptr;
}

void Linear::compute(const Context& call) const {
  const Tensor x = call.input(0, "x");
  if (x.shape.empty()) throw Error("x has shape [], expected [..., K]");
  const int64_t columns = x.shape.back(), tokens = element_count({x.shape.begin(), x.shape.end() - 1});
  size_t next = 1;
  const Matrix weights = read_bank(call, next, "matrix", format_, block_, false, -1, columns).first;
  const float* bias = biased_ ? call.input(next++, "bias", TYPE_FLOAT, {weights.rows}).as<float>() : nullptr;
  if (call.input_count() != next) throw Error("has more inputs than its attributes describe");

  Shape shape = x.shape;
  shape.back() = weights.rows;
  float* y = static_cast<float*>(call.output(0, shape));
  if (!element_count(shape)) return;  // without a look at the tokens: there may be any number of nothing
  const Rows quantized = quantize_rows(call, quantized_, x.as<float>(), tokens, columns);
  std::vector<const void*> rows(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t)
    rows[t] = quantized_ ? static_cast<const void*>(quantized[t]) : x.as<float>() + t * columns;

  Multiply* const multiply = quantized_ ? quantized_->multiply : kernels_.multiply;
  const int64_t across = tiles(tokens, kMaxTokens), height = weights.rows > kFewRows ? kTileRows : kTileRows / 4;
  call.parallel(tiles(weights.rows, height) * across, [&](int64_t task) {
    const int64_t first = task / across * height, count = std::min(height, weights.rows - first);
    const int64_t t = task % across * kMaxTokens, some = std::min(kMaxTokens, tokens - t);
    Tile tile;
    multiply(weights, first, count, &rows[t], some, tile.values);
    for (int64_t i = 0; i < some; ++i)
      for (int64_t r = 0; r < count; ++r)
        y[(t + i) * weights.rows + first + r] = tile.values[i * count + r] + (bias ? bias[first + r] : 0.0f);
  });
}

}  // namespace edgepress
