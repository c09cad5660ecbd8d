"""Portable body of the `Experts` op for float32 activations: a loop over experts that computes only those in use."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import build_graph

from edgepress.export.functions import (
    FLOAT,
    INT,
    INTS,
    OPSETS,
    REAL,
    Op,
    Value,
    attribute,
    constant,
    dequantize,
    function,
    matrix_inputs,
)
from edgepress.formats import Format

STRING = ir.AttributeType.STRING
ATTRIBUTES = {
    "gate_up_bits": INTS, "down_bits": INTS, "gate_up_asymmetric": INTS, "down_asymmetric": INTS,
    "gate_up_map": INTS, "down_map": INTS, "block_size": INT, "activation": STRING, "alpha": REAL, "limit": REAL,
    "biased": INT, "accuracy_level": INT,
}  # fmt: skip

Banks = tuple[Format, ...]


def overload_of(gate_up: Banks, down: Banks, activation: str) -> str:
    names = ["_".join(f.name for f in banks) for banks in (gate_up, down)]
    return "__".join([*names, activation])


def bank_inputs(gate_up: Banks, down: Banks) -> list[str]:
    return [
        name
        for projection, banks in (("gate_up", gate_up), ("down", down))
        for b, chosen in enumerate(banks)
        for name in matrix_inputs(chosen, f"{projection}_{b}_")
    ]


@cache
def experts(gate_up: Banks, down: Banks, activation: str, block_size: int, half: bool = False) -> ir.Function:
    """The function for layers whose banks have these formats, in this order. `half`: x and y are float16."""
    inputs = ["x", "weights", "experts", *bank_inputs(gate_up, down)]

    def body(op: Op, x: Value, weights: Value, ids: Value, *tensors: Value) -> Value:
        x = op.Cast(x, to=FLOAT) if half else x
        maps = [op.Reshape(attribute(op, name, INTS), constant(op, [-1, 2])) for name in ("gate_up_map", "down_map")]
        tensors_of = _split(tensors, gate_up, down)
        zero = constant(op, 0.0, np.float32)

        def step(op: Op, i: Value, going: Value, y: Value) -> tuple[Value, Value]:
            hit = op.Equal(ids, i)
            weight = op.ReduceSum(op.Where(hit, weights, zero), constant(op, [1]), keepdims=0)
            rows = op.Reshape(op.NonZero(weight), constant(op, [-1]))

            def compute(op: Op) -> Value:
                inputs = op.Gather(x, rows, axis=0)
                product = _product(op, inputs, maps[0], i, gate_up, tensors_of[0], block_size)
                hidden = _activate(op, product, activation)
                out = _product(op, hidden, maps[1], i, down, tensors_of[1], block_size)
                scale = op.Unsqueeze(op.Gather(weight, rows, axis=0), constant(op, [1]))
                index = op.Unsqueeze(rows, constant(op, [1]))
                return op.ScatterND(y, index, op.Mul(out, scale), reduction="add")

            used = op.Greater(op.Size(rows), constant(op, 0))
            return op.Identity(going), _if(op, used, compute, lambda op: op.Identity(y))

        y = op.Expand(zero, op.Shape(x))
        count = op.Reshape(op.Slice(op.Shape(maps[0]), constant(op, [0]), constant(op, [1])), constant(op, []))
        loop = _subgraph(op, step, ["i", "going", "y"], ["going_on", "y_next"])
        y = op.Loop(count, None, y, body=loop, _outputs=1)
        return op.Cast(y, to=ir.DataType.FLOAT16) if half else y

    return function("Experts", overload_of(gate_up, down, activation), body, inputs, ATTRIBUTES)


def _split(tensors: Sequence[Value], *sides: Banks) -> list[list[Sequence[Value]]]:
    """The flat inputs, grouped by side and bank."""
    taken, grouped = 0, []
    for banks in sides:
        side = []
        for chosen in banks:
            count = len(matrix_inputs(chosen))
            side.append(tensors[taken : taken + count])
            taken += count
        grouped.append(side)
    return grouped


def _product(
    op: Op, x: Value, of_expert: Value, expert: Value, banks: Banks, tensors: list[Sequence[Value]], block_size: int
) -> Value:  # fmt: skip
    """x [n, K] times expert's matrix, transposed."""
    entry = op.Gather(of_expert, expert, axis=0)
    bank, index = (op.Gather(entry, constant(op, j), axis=0) for j in (0, 1))

    def of_bank(b: int) -> Value:
        def build(op: Op) -> Value:
            row = [op.Gather(t, index, axis=0) for t in tensors[b]]
            return dequantize(op, row, banks[b], block_size)

        return build

    def select(op: Op, b: int) -> Value:
        if b == len(banks) - 1:
            return of_bank(b)(op)
        here = op.Equal(bank, constant(op, b))
        return _if(op, here, of_bank(b), lambda op: select(op, b + 1))

    return op.MatMul(x, op.Transpose(select(op, 0), perm=[1, 0]))


def _activate(op: Op, gate_up: Value, activation: str) -> Value:
    """Alternating gate and up columns [n, 2I] -> [n, I]."""
    pairs = op.Reshape(gate_up, constant(op, [0, -1, 2]))
    gate, up = (op.Gather(pairs, constant(op, j), axis=2) for j in (0, 1))
    if activation == "silu":
        return op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
    if activation in ("gelu", "gelu_tanh"):
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        return op.Mul(op.Gelu(gate, approximate=approximate), up)
    limit, alpha = attribute(op, "limit", REAL), attribute(op, "alpha", REAL)
    gate = op.Min(gate, limit)
    up = op.Max(op.Min(up, limit), op.Neg(limit))
    one = constant(op, 1.0, np.float32)
    return op.Mul(op.Mul(op.Add(up, one), gate), op.Sigmoid(op.Mul(gate, alpha)))


def _if(op: Op, condition: Value, then: Callable[..., Any], otherwise: Callable[..., Any]) -> Value:
    return op.If(
        condition,
        then_branch=_subgraph(op, then, [], ["then"]),
        else_branch=_subgraph(op, otherwise, [], ["otherwise"]),
    )


def _subgraph(op: Op, trace: Callable[..., Any], inputs: list[str], outputs: list[str]) -> ir.Graph:
    """A branch or loop body. Constants inside it are Constant nodes, so it needs no initializers of its own."""
    scalars = {"i": ir.DataType.INT64, "going": ir.DataType.BOOL}
    values = [_input(n, scalars.get(n)) for n in inputs]
    return build_graph(trace, values, [ir.Value(name=n) for n in outputs], opset_imports=OPSETS)


def _input(name: str, scalar: ir.DataType | None) -> ir.Value:
    if scalar is None:
        return ir.Value(name=name, type=ir.TensorType(FLOAT))
    return ir.Value(name=name, type=ir.TensorType(scalar), shape=ir.Shape([]))
