"""Portable body of `Attention`: com.microsoft's GroupQueryAttention, after the norms of heads."""

from functools import cache

import onnx_ir as ir

from edgepress.export.functions import INT, MICROSOFT, REAL, Op, Value, constant, function, reference

_KINDS = {
    "num_heads": INT, "kv_num_heads": INT, "scale": REAL, "softcap": REAL, "local_window_size": INT, "do_rotary": INT,
    "rotary_interleaved": INT,
}  # fmt: skip
_FLAGS = {"normed": INT, "masked": INT, "sinks": INT, "epsilon": REAL}


@cache
def attention(rotary: bool, masked: bool, sinks: bool, normed: bool) -> ir.Function:
    """The body for nodes with these inputs; see runtime/kernels/OPS.md."""
    tables, mask = ["cos", "sin"] if rotary else [], ["mask"] if masked else []
    extra = [*tables, *mask, *(["sinks"] if sinks else []), *(["q_norm", "k_norm"] if normed else [])]

    def body(
        op: Op, q: Value, k: Value, v: Value, key: Value, value: Value, seqlens: Value, total: Value, *rest: Value
    ) -> tuple[Value, Value, Value]:
        given = dict(zip(extra, rest, strict=True))
        if normed:
            q, k = _normed(op, q, given["q_norm"]), _normed(op, k, given["k_norm"])
        options = [given.get("cos"), given.get("sin"), None, given.get("mask"), given.get("sinks")]
        while options and options[-1] is None:
            options.pop()
        attributes = {name: reference(name, name, kind) for name, kind in _KINDS.items()}
        y: tuple[Value, Value, Value] = op.GroupQueryAttention(
            q, k, v, key, value, seqlens, total, *options, _domain=MICROSOFT, _outputs=3, **attributes
        )
        return y

    overload = "_".join(["grouped", *(name for name in ("cos", "mask", "sinks", "q_norm") if name in extra)])
    inputs = ["q", "k", "v", "past_key", "past_value", "seqlens", "total", *extra]
    return function("Attention", overload, body, inputs, _KINDS | _FLAGS)


def _normed(op: Op, x: Value, scale: Value) -> Value:
    heads = op.Reshape(x, op.Concat(constant(op, [0, 0, -1]), op.Shape(scale), axis=0))
    normed = op.SimplifiedLayerNormalization(
        heads, scale, axis=-1, epsilon=reference("epsilon", "epsilon", REAL), stash_type=1
    )
    return op.Reshape(normed, constant(op, [0, 0, -1]))
