"""The whole graph: inputs, decoder layers, head, outputs."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edgepress.architecture import ModelSpec
from edgepress.export.functions import OPSETS, Op, Value, constant
from edgepress.export.latent import LatentAttention
from edgepress.export.modules import Attention, Context, Embedding, FeedForward, Linear, Module, Norm, Step
from edgepress.export.moe import MixtureOfExperts
from edgepress.layout import module_path, vector_name
from edgepress.rope import inverse_frequencies
from edgepress.state import State, layer_states

IR_VERSION = 10  # the first with `overload`
INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


_ATTENTION = {"gqa": Attention, "mla": LatentAttention}


class Layer(Module):
    """One pre-norm decoder layer."""

    def __init__(self, context: Context, i: int, inside: str) -> None:
        spec = context.spec
        super().__init__(vector_name(spec, f"layers.{i}.attention_norm").rsplit(".", 2)[0], inside)
        self.attention_norm = Norm(context, f"layers.{i}.attention_norm", spec.hidden_size, self.path)
        self.attention: Any = _ATTENTION[spec.attention.kind](context, i, self.path)
        self.ffn_norm = Norm(context, f"layers.{i}.ffn_norm", spec.hidden_size, self.path)
        if spec.has_experts(i):
            self.ffn: Any = MixtureOfExperts(context, i, self.path)
        else:
            self.ffn = FeedForward(context, f"layers.{i}.ffn", spec.intermediate, self.path, biased=spec.mlp_bias)

    def forward(self, op: Op, x: Value, past: tuple[Value, ...], step: Step) -> tuple[Value, ...]:
        attended, *present = self.attention(op, self.attention_norm(op, x), past, step)
        x = op.Add(x, attended)
        return op.Add(x, self.ffn(op, self.ffn_norm(op, x))), *present


class Decoder(Module):
    """Embedding, layers and final norm: the checkpoint's base model."""

    def __init__(self, context: Context) -> None:
        spec = context.spec
        super().__init__(module_path(spec, "embedding").rsplit(".", 1)[0])
        self.embedding = Embedding(context, self.path)
        self.layers = [Layer(context, i, self.path) for i in range(spec.layers)]
        self.norm = Norm(context, "final_norm", spec.hidden_size, self.path)

    def forward(self, op: Op, ids: Value, pasts: list[tuple[Value, ...]], step: Step, keep: Value) -> Any:
        hidden, presents = self.embedding(op, ids), []
        for layer, past in zip(self.layers, pasts, strict=True):
            hidden, *present = layer(op, hidden, past, step)
            presents.append(present)
        return self.norm(op, last(op, hidden, keep)), presents


def last(op: Op, hidden: Value, keep: Value) -> Value:
    """The last `keep` positions of hidden [batch, sequence, H]; all of them if keep is 0."""
    return op.Slice(hidden, op.Neg(keep), constant(op, [np.iinfo(np.int64).max]), constant(op, [1]))


def build_model(context: Context) -> ir.Model:
    """The graph of a pressed model. Initializers named in edgepress.layout have no data yet.

    Inputs: input_ids, attention_mask int64 [batch, sequence] and [batch, total_sequence] (right-padded), the states of
    every layer (edgepress.state); logits_to_keep int64 [1], optional: logits of that many last positions.
    Outputs: logits [batch, sequence or kept, vocabulary], the states after it.
    """
    spec = context.spec
    graph = ir.Graph([], [], nodes=[], opset_imports=OPSETS, name=spec.model_type)
    builder = GraphBuilder(graph)
    op = builder.op
    ids = builder.input("input_ids", INT64, ["batch", "sequence"])
    mask = builder.input("attention_mask", INT64, ["batch", "total_sequence"])
    states = [tuple(layer_states(spec, i)) for i in range(spec.layers)]
    pasts = [tuple(builder.input(s.past, context.real, _shape(s, "past")) for s in layer) for layer in states]
    keep = builder.input("logits_to_keep", INT64, [1])
    keep.const_value = ir.tensor(np.zeros(1, np.int64), name="logits_to_keep")
    graph.initializers["logits_to_keep"] = keep

    decoder = Decoder(context)
    hidden, presents = decoder(op, ids, pasts, _step(op, context, ids, mask), keep)
    if spec.tied_head:
        logits = decoder.embedding.as_head(op, hidden)
    else:
        logits = Linear(context, "head", (spec.vocab_size, spec.hidden_size), "")(op, hidden)
    _output(graph, logits, "logits", context.real, ["batch", "kept", spec.vocab_size])
    for layer, present in zip(states, presents, strict=True):
        for state, value in zip(layer, present, strict=True):
            _output(graph, value, state.present, context.real, _shape(state, "total"))
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgepress", functions=list(builder.functions.values()))


def _shape(state: State, when: str) -> list[int | str | None]:
    return ["batch", *(f"{when}_sequence" if n is None else n for n in state.shape)]


def _output(graph: ir.Graph, value: Value, name: str, dtype: ir.DataType, shape: list[Any]) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    graph.outputs.append(value)


def _step(op: Op, context: Context, ids: Value, mask: Value) -> Step:
    lengths = op.ReduceSum(mask, constant(op, [1]), keepdims=0)
    seqlens = op.Cast(op.Sub(lengths, constant(op, 1)), to=INT32)
    total = op.Cast(op.Gather(op.Shape(mask), constant(op, 1), axis=0), to=INT32)
    cos, sin = _rotary_tables(op, context.spec, context.real)
    return Step(seqlens, total, cos, sin, _positions(op, ids, lengths))


def _positions(op: Op, ids: Value, lengths: Value) -> Value:
    """int64 [batch, sequence]: where the new tokens stand; a row shorter than the others begins at 0 as they do."""
    count = op.Gather(op.Shape(ids), constant(op, 1), axis=0)
    starts = op.Max(op.Sub(lengths, count), constant(op, 0))
    return op.Add(op.Unsqueeze(starts, constant(op, [1])), op.Range(constant(op, 0), count, constant(op, 1)))


def _rotary_tables(op: Op, spec: ModelSpec, real: ir.DataType) -> tuple[Value, Value]:
    """cos and sin [context, rotary_dim / 2], computed at load from the frequencies instead of being stored."""
    frequencies, factor = inverse_frequencies(spec.rope, spec.attention.rotated)
    positions = op.Range(*(constant(op, n, np.float32) for n in (0, spec.context, 1)))
    angles = op.Mul(op.Unsqueeze(positions, constant(op, [1])), constant(op, frequencies[None], np.float32))
    scale = constant(op, factor, np.float32)
    cos, sin = (op.Cast(op.Mul(f(angles), scale), to=real) for f in (op.Cos, op.Sin))
    return cos, sin
