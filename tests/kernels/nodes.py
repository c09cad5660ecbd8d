"""One-node models of the custom ops, run by ONNX Runtime with the native library."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgepress.runtime.library import find_library
from tests.kernels.reference import Array, Bank, Layer
from tests.kernels.reference_attention import Call

VARIANTS = ("reference", "portable", "portable16", "avx2", "avxvnni", "avx512vnni")
OUTPUTS = {
    "Route": {"w": TensorProto.FLOAT, "e": TensorProto.INT64},
    "Attention": {"y": TensorProto.FLOAT, "key": TensorProto.FLOAT, "value": TensorProto.FLOAT},
}
NAME = "model.layers.3.node"


@contextmanager
def variant(name: str) -> Iterator[None]:
    """Sessions made inside run this variant of the kernels."""
    before = os.environ.get("EDGEPRESS_ISA")
    os.environ["EDGEPRESS_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("EDGEPRESS_ISA")
        if before is not None:
            os.environ["EDGEPRESS_ISA"] = before


@cache
def supported(name: str) -> bool:
    """Whether this machine can run the variant; the library itself says so."""
    with variant(name):
        try:
            linear(np.zeros((1, 1), np.float32), Bank(16, False, (np.zeros((1, 1), np.float16),), np.zeros((1, 1))))
        except Exception as error:
            if "does not support" in str(error):
                return False
            raise
    return True


def model(
    op: str, feeds: Mapping[str, Array], weights: Sequence[TensorProto], attributes: Mapping[str, Any]
) -> onnx.ModelProto:
    """A node that takes `feeds` (types and ranks; their sizes are left open), then `weights` as initializers."""
    outputs = OUTPUTS.get(op, {"y": TensorProto.FLOAT})
    node = helper.make_node(
        op, [*feeds, *(w.name for w in weights)], list(outputs), NAME, domain="edgepress", **attributes
    )
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
        for n, v in feeds.items()
    ]
    results = [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()]
    graph = helper.make_graph([node], "one_node", inputs, results, list(weights))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("edgepress", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(
    op: str, feeds: Mapping[str, Array], weights: Sequence[TensorProto], attributes: Mapping[str, Any], threads: int = 1
) -> ort.InferenceSession:
    return load(model(op, feeds, weights, attributes).SerializeToString(), threads)


def load(given: bytes | str, threads: int = 1, **entries: str) -> ort.InferenceSession:
    """A session of a serialized model or of a file, with config `entries` of our domain."""
    return open_with(options_of(threads, **entries), given)


def open_with(options: ort.SessionOptions, given: bytes | str) -> ort.InferenceSession:
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def options_of(threads: int = 1, **entries: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for key, value in entries.items():
        options.add_session_config_entry(f"edgepress.{key}", value)
    options.register_custom_ops_library(str(find_library()))
    return options


def run(
    op: str, feeds: Mapping[str, Array], weights: Sequence[TensorProto], attributes: Mapping[str, Any], threads: int = 1
) -> list[Array]:
    return session(op, feeds, weights, attributes, threads).run(None, dict(feeds))


def initializer(name: str, tensor: Array, bfloat: bool = False) -> TensorProto:
    if not bfloat:
        return numpy_helper.from_array(np.ascontiguousarray(tensor), name)
    return onnx.TensorProto(
        name=name, dims=tensor.shape, data_type=TensorProto.BFLOAT16, raw_data=tensor.astype(np.uint16).tobytes()
    )


def bank_tensors(prefix: str, bank: Bank) -> list[TensorProto]:
    return [initializer(f"{prefix}_{i}", t, bank.bfloat) for i, t in enumerate(bank.tensors)]


def linear(x: Array, bank: Bank, bias: Array | None = None, threads: int = 1, **attributes: Any) -> Array:
    """Runs `Linear` on a dense bank."""
    weights = bank_tensors("matrix", bank)
    if bias is not None:
        weights.append(initializer("bias", bias.astype(np.float32)))
    given = {"bits": bank.bits, "asymmetric": int(bank.asymmetric), "biased": int(bias is not None)}
    return run("Linear", {"x": x}, weights, given | attributes, threads)[0]


def experts_weights(layer: Layer) -> list[TensorProto]:
    weights = [t for i, b in enumerate(layer.gate_up) for t in bank_tensors(f"gate_up_{i}", b)]
    weights += [t for i, b in enumerate(layer.down) for t in bank_tensors(f"down_{i}", b)]
    if layer.gate_up_bias is not None and layer.down_bias is not None:
        weights.append(initializer("gate_up_bias", layer.gate_up_bias.astype(np.float32)))
        weights.append(initializer("down_bias", layer.down_bias.astype(np.float32)))
    return weights


def experts_attributes(layer: Layer) -> dict[str, Any]:
    return {
        "gate_up_bits": [b.bits for b in layer.gate_up],
        "down_bits": [b.bits for b in layer.down],
        "gate_up_asymmetric": [int(b.asymmetric) for b in layer.gate_up],
        "down_asymmetric": [int(b.asymmetric) for b in layer.down],
        "gate_up_map": [i for entry in layer.gate_up_map for i in entry],
        "down_map": [i for entry in layer.down_map for i in entry],
        "block_size": layer.block,
        "activation": layer.activation,
        "biased": int(layer.gate_up_bias is not None),
    }


def experts(x: Array, weights: Array, ids: Array, layer: Layer, threads: int = 1, **attributes: Any) -> Array:
    """Runs `Experts`."""
    feeds = {"x": x, "weights": weights.astype(np.float32), "experts": ids.astype(np.int64)}
    return run("Experts", feeds, experts_weights(layer), experts_attributes(layer) | attributes, threads)[0]


def attention(given: Call, threads: int = 1, **attributes: Any) -> list[Array]:
    """Runs `Attention`: what comes out, and the buffers of keys and values."""
    return run("Attention", given.feeds, [], given.attributes | attributes, threads)
