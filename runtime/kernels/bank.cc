#include "bank.h"

namespace edgepress {

BankFormat bank_format(int64_t bits, int64_t asymmetric) {
  if (bits != 16 && bits != 8 && (bits < 3 || bits > 6))
    throw Error("bits must be 3, 4, 5, 6, 8 or 16, not " + std::to_string(bits));
  if (asymmetric != 0 && asymmetric != 1) throw Error("asymmetric must be 0 or 1");
  if (bits > 4 && bits != 8 && asymmetric)
    throw Error(std::to_string(bits) + "-bit weights have no zero points: asymmetric must be 0");
  return {static_cast<int>(bits), asymmetric == 1};
}

int block_size(const Node& node) {
  const int64_t block = node.integer("block_size", 32);
  if (block != 16 && block != 32 && block != 64 && block != 128)
    throw Error("block_size must be 16, 32, 64 or 128, not " + std::to_string(block));
  return static_cast<int>(block);
}

const QuantizedKernels* quantized_kernels(const Node& node, const Kernels& kernels) {
  const int64_t level = node.integer("accuracy_level", 0);
  if (level == 0) return nullptr;
  if (level == 2) return &kernels.int16;
  if (level == 4) return &kernels.int8;
  throw Error("accuracy_level must be 0, 2 or 4, not " + std::to_string(level));
}

Matrix Bank::matrix(int64_t index) const {
  Matrix m = first;
  m.weight = first.row(index * m.rows);
  if (m.scales) m.scales = first.row_scales(index * m.rows);
  if (m.zero_points) m.zero_points = first.row_zero_points(index * m.rows);
  return m;
}

namespace {

Tensor weight_tensor(const Context& call, size_t index, const std::string& what, BankFormat format, bool stacked,
                     int64_t rows, int64_t columns) {
  Tensor weight = call.input(index, what);
  const bool half = weight.type == TYPE_FLOAT16 || weight.type == TYPE_BFLOAT16;
  if (format.bits == 16 ? !half : weight.type != TYPE_UINT8)
    throw Error(what + " must be " + (format.bits == 16 ? "float16 or bfloat16" : "uint8") + " for " +
                std::to_string(format.bits) + " bits");
  if (!stacked) weight.shape.insert(weight.shape.begin(), 1);
  expect_shape(weight, what, {-1, rows, format.bits == 16 ? columns : columns * format.bits / 8});
  return weight;
}

}  // namespace

Bank read_bank(const Context& call, size_t& index, const std::string& what, BankFormat format, int block, bool stacked,
               int64_t rows, int64_t columns) {
  const bool quantized = format.bits < 16;
  if (quantized && columns % block)
    throw Error(what + " has rows of " + std::to_string(columns) + ", not a multiple of block_size " +
                std::to_string(block));
  const Tensor weight = weight_tensor(call, index++, what + " weight", format, stacked, rows, columns);
  Bank bank{{weight.as<uint8_t>(), nullptr, nullptr, weight.shape[1], columns, format.bits, block,
             weight.type == TYPE_BFLOAT16},
            weight.shape[0]};
  if (!quantized) return bank;
  const auto expected = [&](int64_t per_row) {
    return stacked ? Shape{bank.count, bank.first.rows, per_row} : Shape{bank.first.rows, per_row};
  };
  bank.first.scales =
      call.input(index++, what + " scales", TYPE_FLOAT16, expected(bank.first.row_blocks())).as<uint16_t>();
  if (format.asymmetric)
    bank.first.zero_points =
        call.input(index++, what + " zero_points", TYPE_UINT8, expected(bank.first.zero_point_bytes())).as<uint8_t>();
  return bank;
}

}  // namespace edgepress
