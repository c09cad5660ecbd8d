#include "op.h"

namespace edgepress {

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + (shape[i] < 0 ? "?" : std::to_string(shape[i]));
  return text + "]";
}

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

void expect_shape(const Tensor& tensor, const std::string& what, const Shape& shape) {
  bool same = tensor.shape.size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || tensor.shape[i] == shape[i];
  if (!same) throw Error(what + " has shape " + to_string(tensor.shape) + ", expected " + to_string(shape));
}

namespace {

std::string type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case TYPE_FLOAT: return "float32";
    case TYPE_UINT8: return "uint8";
    case TYPE_INT32: return "int32";
    case TYPE_INT64: return "int64";
    case TYPE_FLOAT16: return "float16";
    case TYPE_BFLOAT16: return "bfloat16";
    default: return "element type " + std::to_string(type);
  }
}

}  // namespace

bool Node::found(OrtStatus* status) const {
  if (status) api_.ReleaseStatus(status);
  return !status;
}

std::string Node::name() const {
  size_t size = 0;
  found(api_.KernelInfo_GetNodeName(&info_, nullptr, &size));
  std::string name(size, '\0');
  if (size < 2 || !found(api_.KernelInfo_GetNodeName(&info_, name.data(), &size))) return "(unnamed node)";
  name.resize(size - 1);  // without the terminating zero
  return name;
}

int64_t Node::integer(const char* name, int64_t fallback) const {
  int64_t value;
  return found(api_.KernelInfoGetAttribute_int64(&info_, name, &value)) ? value : fallback;
}

float Node::real(const char* name, float fallback) const {
  float value;
  return found(api_.KernelInfoGetAttribute_float(&info_, name, &value)) ? value : fallback;
}

std::string Node::text(const char* name, const char* fallback) const {
  size_t size = 0;
  found(api_.KernelInfoGetAttribute_string(&info_, name, nullptr, &size));
  std::string value(size, '\0');
  if (!size || !found(api_.KernelInfoGetAttribute_string(&info_, name, value.data(), &size))) return fallback;
  value.resize(size - 1);
  return value;
}

std::vector<int64_t> Node::integers(const char* name) const {
  size_t size = 0;
  found(api_.KernelInfoGetAttributeArray_int64(&info_, name, nullptr, &size));
  std::vector<int64_t> values(size);
  if (!size || !found(api_.KernelInfoGetAttributeArray_int64(&info_, name, values.data(), &size)))
    throw Error(std::string("attribute ") + name + " must be a list of integers");
  return values;
}

bool Node::flag(const char* name) const {
  const int64_t value = integer(name, 0);
  if (value != 0 && value != 1) throw Error(std::string("attribute ") + name + " must be 0 or 1");
  return value == 1;
}

void Context::check(OrtStatus* status) const {
  if (!status) return;
  const std::string message = api_.GetErrorMessage(status);
  api_.ReleaseStatus(status);
  throw Error(message);
}

size_t Context::input_count() const {
  size_t count;
  check(api_.KernelContext_GetInputCount(&context_, &count));
  return count;
}

const OrtValue* Context::find_input(size_t index) const {
  const OrtValue* value = nullptr;
  if (index < input_count()) check(api_.KernelContext_GetInput(&context_, index, &value));
  return value;
}

bool Context::has_input(size_t index) const { return find_input(index) != nullptr; }

Tensor Context::input(size_t index, const std::string& what) const {
  const OrtValue* value = find_input(index);
  if (!value) throw Error("input " + what + " is missing");
  OrtTensorTypeAndShapeInfo* info;
  check(api_.GetTensorTypeAndShape(value, &info));
  Tensor tensor;
  size_t rank = 0;
  OrtStatus* status = api_.GetTensorElementType(info, &tensor.type);
  if (!status) status = api_.GetDimensionsCount(info, &rank);
  tensor.shape.resize(rank);
  if (!status) status = api_.GetDimensions(info, tensor.shape.data(), rank);
  api_.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  for (int64_t size : tensor.shape)  // an empty tensor may have any: products of two sizes must not overflow
    if (size > INT32_MAX) throw Error(what + " has shape " + to_string(tensor.shape) + ": a size is above 2^31 - 1");
  check(api_.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

Tensor Context::input(size_t index, const std::string& what, ONNXTensorElementDataType type, const Shape& shape) const {
  const Tensor tensor = input(index, what);
  if (tensor.type != type) throw Error(what + " is " + type_name(tensor.type) + ", expected " + type_name(type));
  expect_shape(tensor, what, shape);
  return tensor;
}

void* Context::output(size_t index, const Shape& shape) const {
  OrtValue* value;
  check(api_.KernelContext_GetOutput(&context_, index, shape.data(), shape.size(), &value));
  void* data;
  check(api_.GetTensorMutableData(value, &data));
  return data;
}

void Context::parallel(int64_t count, const std::function<void(int64_t)>& task) const {
  const auto call = [](void* data, size_t index) {
    (*static_cast<const std::function<void(int64_t)>*>(data))(static_cast<int64_t>(index));
  };
  // One batch per task: threads take the next one when they are done, instead of equal shares in advance.
  if (count > 0)
    check(api_.KernelContext_ParallelFor(&context_, call, static_cast<size_t>(count), static_cast<size_t>(count),
                                         const_cast<std::function<void(int64_t)>*>(&task)));
}

}  // namespace edgepress
