"""Reads where an ONNX model keeps its external data, without the onnx package.

Protocol Buffers wire format (https://protobuf.dev/programming-guides/encoding): a message is a run of fields, each a
varint tag `number << 3 | wire type` and a value. Field numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgepress.errors import BundleError

# message -> field number -> message that the field holds
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 8, 13, 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 50


@dataclass(frozen=True)
class External:
    """Where one tensor's data lies. `length` is None where the model leaves it to the tensor's shape."""

    tensor: str
    location: str
    offset: int
    length: int | None


def external_data(model: Path) -> Iterator[External]:
    """Every external tensor of a model: initializers and attributes, of nested graphs and functions too.

    Raises:
        BundleError: not a well-formed model, or nested more than 50 messages deep.
    """
    try:
        yield from _walk(memoryview(model.read_bytes()), "Model", 0)
    except ValueError as cause:
        raise BundleError(f"{model} is not a valid ONNX model: {cause}; write the bundle again") from None


def _walk(message: memoryview, kind: str, depth: int) -> Iterator[External]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} messages deep")
    if kind == "Tensor":
        yield from _tensor(message)
        return
    children = _MESSAGES[kind]
    for number, value in _fields(message):
        if number in children:
            yield from _walk(_as_bytes(value), children[number], depth + 1)


def _tensor(message: memoryview) -> Iterator[External]:
    name, entries, external = "", dict[str, str](), False
    for number, value in _fields(message):
        if number == _NAME:
            name = _text(value)
        elif number == _DATA_LOCATION:
            external = value == _EXTERNAL
        elif number == _EXTERNAL_DATA:
            entry = {n: _text(v) for n, v in _fields(_as_bytes(value)) if n in (1, 2)}
            if entries.setdefault(entry.get(1, ""), text := entry.get(2, "")) != text:
                raise ValueError(f"tensor {name!r} gives {entry.get(1)!r} twice")
    if external or entries:
        length = _integer(entries["length"], name) if "length" in entries else None
        yield External(name, entries.get("location", ""), _integer(entries.get("offset", "0"), name), length)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message; fixed-width values, which nothing here needs, are given as 0."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} has wire type {wire}")
        if size > len(message) - at:
            raise ValueError(f"field {number} runs past the end")
        yield number, message[at : at + size] if wire == _BYTES else 0
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than 10 bytes")


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message or a text belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_as_bytes(value)).decode("utf-8")


def _integer(text: str, tensor: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(f"tensor {tensor!r} has {text!r} where an offset or length belongs")
    return int(text)
