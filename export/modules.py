"""Decoder parts as onnxscript.nn modules. Parameters carry the names of edgepress.layout: the checkpoint's paths."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import nn

from edgepress.architecture import ModelSpec, layer_roles
from edgepress.export import functions
from edgepress.export.functions import MICROSOFT, Op, Value
from edgepress.formats import Format
from edgepress.layout import Stored, matrix_tensors, module_path, vector_name
from edgepress.plan import Plan

DTYPES = {
    "uint8": ir.DataType.UINT8,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "float32": ir.DataType.FLOAT,
}


@dataclass(frozen=True)
class Context:
    """What every module reads.

    Attributes:
        half: float16 activations (the cuda provider) instead of float32.
        accuracy_level: of Linear and Experts; see runtime/kernels/OPS.md.
    """

    spec: ModelSpec
    plan: Plan
    half: bool
    accuracy_level: int = 2

    @property
    def real(self) -> ir.DataType:
        return ir.DataType.FLOAT16 if self.half else ir.DataType.FLOAT

    def matrix(self, role: str, shape: tuple[int, ...]) -> list[Stored]:
        return list(matrix_tensors(module_path(self.spec, role), self.plan.format(role), shape, self.plan))


def parameter(stored: Stored) -> nn.Parameter:
    """A graph initializer without data; the writer points it into the data file."""
    return nn.Parameter(stored.shape, DTYPES[stored.dtype], name=stored.name.rsplit(".", 1)[1])


class Module(nn.Module):
    """A module at a path of the checkpoint; `inside` is the path of the module that holds it."""

    def __init__(self, path: str, inside: str = "") -> None:
        super().__init__(path.removeprefix(f"{inside}.") if inside else path)
        self.path = path

    def hold(self, tensors: Iterable[Stored]) -> list[nn.Parameter]:
        held = []
        for stored in tensors:
            value = parameter(stored)
            setattr(self, str(value.name), value)
            held.append(value)
        return held


class Norm(Module):
    """RMS normalisation over the last axis."""

    def __init__(self, context: Context, role: str, size: int, inside: str, *, epsilon: float | None = None) -> None:
        stored = Stored(vector_name(context.spec, role), "float32", (size,))
        super().__init__(stored.name.rsplit(".", 1)[0], inside)
        self.scale = self.hold([stored])[0]
        self.context = context
        self.epsilon = context.spec.norm_epsilon if epsilon is None else epsilon

    def forward(self, op: Op, x: Value) -> Value:
        scale = op.Cast(self.scale, to=self.context.real) if self.context.half else self.scale
        return op.SimplifiedLayerNormalization(x, scale, axis=-1, epsilon=self.epsilon, stash_type=1)


class Linear(Module):
    """y = x W^T + b through the `Linear` op; W is stored at the width that the plan gives to `role`."""

    def __init__(
        self, context: Context, role: str, shape: tuple[int, int], inside: str, *, biased: bool = False
    ) -> None:
        super().__init__(module_path(context.spec, role), inside)
        self.context, self.shape = context, shape
        self.format = context.plan.format(role)
        self.tensors = self.hold(context.matrix(role, shape))
        names = [vector_name(context.spec, f"{role}_bias")] if biased else []
        self.biases = self.hold(Stored(name, "float32", shape[:1]) for name in names)

    def forward(self, op: Op, x: Value) -> Value:
        return linear(op, self.context, x, self.format, self.shape, self.tensors, self.biases)


def layer_linear(context: Context, i: int, name: str, inside: str, *, biased: bool = False) -> Linear:
    """The Linear of a role of layer i."""
    rows, columns = dict(layer_roles(context.spec, i))[name]
    return Linear(context, f"layers.{i}.{name}", (rows, columns), inside, biased=biased)


def linear(
    op: Op,
    context: Context,
    x: Value,
    chosen: Format,
    shape: tuple[int, int],
    tensors: Sequence[Value],
    biases: Sequence[Value],
) -> Value:
    """One `Linear` node; `tensors` are the stored parts of the matrix."""
    rows, columns = shape
    block_size = context.plan.block_size
    body = functions.linear(chosen, block_size, bool(biases), accuracy_level=context.accuracy_level, half=context.half)
    return op.builder.call(
        body, x, *tensors, *biases, K=columns, N=rows, bits=chosen.bits, asymmetric=int(chosen.asymmetric),
        biased=len(biases), block_size=block_size, accuracy_level=context.accuracy_level if chosen.quantized else 0,
    )  # fmt: skip


class Embedding(Module):
    """Token embedding; a tied head reads the same tensors."""

    def __init__(self, context: Context, inside: str) -> None:
        spec = context.spec
        super().__init__(module_path(spec, "embedding"), inside)
        self.context, self.format = context, context.plan.format("embedding")
        self.shape = (spec.vocab_size, spec.hidden_size)
        self.tensors = self.hold(context.matrix("embedding", self.shape))

    def forward(self, op: Op, ids: Value) -> Value:
        if self.format.quantized:
            rows = op.GatherBlockQuantized(
                self.tensors[0], ids, *self.tensors[1:], _domain=MICROSOFT, bits=self.format.bits,
                block_size=self.context.plan.block_size, gather_axis=0, quantize_axis=1,
            )  # fmt: skip
        else:
            rows = op.Gather(self.tensors[0], ids, axis=0)
        return op.Cast(rows, to=self.context.real)

    def as_head(self, op: Op, hidden: Value) -> Value:
        return linear(op, self.context, hidden, self.format, self.shape, self.tensors, [])


@dataclass(frozen=True)
class Step:
    """What all layers share in one call: lengths, int32 [batch] and [], rotary tables [context, dim / 2], and the
    positions of the tokens, int64 [batch, sequence]."""

    seqlens: Value
    total: Value
    cos: Value
    sin: Value
    positions: Value


class Attention(Module):
    """Grouped-query attention over a past/present buffer that the caller shares."""

    def __init__(self, context: Context, i: int, inside: str) -> None:
        spec, a = context.spec, context.spec.attention
        super().__init__(module_path(spec, f"layers.{i}.q").rsplit(".", 1)[0], inside)
        self.context = context
        shapes = dict(layer_roles(spec, i))
        self.q, self.k, self.v = (layer_linear(context, i, n, self.path, biased=a.qkv_bias) for n in ("q", "k", "v"))
        self.o = layer_linear(context, i, "o", self.path, biased=a.output_bias)
        norms = ("q_norm", "k_norm") if a.qk_norm else ()
        self.norms = [Norm(context, f"layers.{i}.{name}", shapes[name][0], self.path) for name in norms]

    def forward(self, op: Op, x: Value, past: tuple[Value, Value], step: Step) -> tuple[Value, Value, Value]:
        a = self.context.spec.attention
        q, k = (self._normed(op, j, projection(op, x)) for j, projection in enumerate((self.q, self.k)))
        q, k, v = (self._clip(op, p) for p in (q, k, self.v(op, x)))
        out, key, value = op.GroupQueryAttention(
            q, k, v, *past, step.seqlens, step.total, step.cos, step.sin, _domain=MICROSOFT, _outputs=3,
            num_heads=a.heads, kv_num_heads=a.kv_heads, do_rotary=1, rotary_interleaved=0,
        )  # fmt: skip
        return self.o(op, out), key, value

    def _normed(self, op: Op, j: int, projected: Value) -> Value:
        a = self.context.spec.attention
        if not self.norms:
            return projected
        if a.qk_norm == "full":
            return self.norms[j](op, projected)
        heads = op.Reshape(projected, functions.constant(op, [0, 0, -1, a.head_dim]))
        return op.Reshape(self.norms[j](op, heads), functions.constant(op, [0, 0, -1]))

    def _clip(self, op: Op, x: Value) -> Value:
        limit = self.context.spec.attention.clip
        if limit is None:
            return x
        low, high = (functions.constant(op, s * limit, self.context.real.numpy()) for s in (-1, 1))
        return op.Clip(x, low, high)


class FeedForward(Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). `role` is `layers.{i}.ffn` or `layers.{i}.shared`."""

    def __init__(self, context: Context, role: str, intermediate: int, inside: str, *, biased: bool = False) -> None:
        spec = context.spec
        super().__init__(module_path(spec, f"{role}.gate").rsplit(".", 1)[0], inside)
        wide, narrow = (intermediate, spec.hidden_size), (spec.hidden_size, intermediate)
        self.gate = Linear(context, f"{role}.gate", wide, self.path, biased=biased)
        self.up = Linear(context, f"{role}.up", wide, self.path, biased=biased)
        self.down = Linear(context, f"{role}.down", narrow, self.path, biased=biased)

    def forward(self, op: Op, x: Value) -> Value:
        gate = self.gate(op, x)
        return self.down(op, op.Mul(op.Mul(gate, op.Sigmoid(gate)), self.up(op, x)))
