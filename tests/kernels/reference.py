"""The custom ops in numpy, written from runtime/kernels/OPS.md alone, in float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import erf
from types import EllipsisType
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Bank:
    """Stored matrices [B, N, K]: the tensors in OPS.md's order, and the float64 values that they stand for."""

    bits: int
    asymmetric: bool
    tensors: tuple[Array, ...]
    values: Array
    bfloat: bool = False

    @property
    def magnitudes(self) -> Array:
        """Bounds of the terms that a kernel may compute each value from."""
        if self.bits == 16:
            return np.abs(self.values)
        scales = np.abs(self.tensors[1].astype(np.float64))
        return np.repeat(scales, self.values.shape[-1] // scales.shape[-1], axis=-1) * 2**self.bits

    @property
    def dense(self) -> "Bank":
        """The first matrix, as `Linear` stores it."""
        return Bank(self.bits, self.asymmetric, tuple(t[0] for t in self.tensors), self.values[0], self.bfloat)


def random_bank(
    rng: np.random.Generator, shape: tuple[int, int, int], bits: int, asymmetric: bool = False, block: int = 32,
    bfloat: bool = False,
) -> Bank:  # fmt: skip
    if bits == 16:
        return _random_16_bits(rng, shape, bfloat)
    count, rows, columns = shape
    codes = rng.integers(0, 2**bits, shape, dtype=np.uint8)
    scales = (rng.standard_normal((count, rows, columns // block)) * 2.0 ** (1 - bits)).astype(np.float16)
    points = np.full(scales.shape, 2 ** (bits - 1), np.uint8)
    if asymmetric:
        points = rng.integers(0, 2**bits, scales.shape, dtype=np.uint8)
    widen = partial(np.repeat, repeats=block, axis=-1)
    values = (codes.astype(np.float64) - widen(points)) * widen(scales.astype(np.float64))
    tensors = (pack_codes(codes, bits), scales, *([pack(points, 8 if bits == 8 else 4)] if asymmetric else []))
    return Bank(bits, asymmetric, tensors, values)


def _random_16_bits(rng: np.random.Generator, shape: tuple[int, int, int], bfloat: bool) -> Bank:
    values = rng.standard_normal(shape).astype(np.float32)
    if bfloat:  # the upper half of a float32; kept as uint16, numpy has no bfloat16
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        values = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        stored = values.astype(np.float16)
        values = stored.astype(np.float32)
    return Bank(16, False, (stored,), values.astype(np.float64), bfloat)


PLANES = {3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}


def pack_codes(codes: Array, bits: int) -> Array:
    """The planes of each row one after the other, that of the lowest bits first."""
    packed, shift = [], 0
    for width in PLANES[bits]:
        packed.append(pack(codes >> shift & 2**width - 1, width))
        shift += width
    return np.concatenate(packed, axis=-1)


def pack(codes: Array, bits: int) -> Array:
    """Low bits first; the last byte of a row may be partly used."""
    each = 8 // bits
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    grouped = padded.reshape(*codes.shape[:-1], -1, each).astype(np.uint16)
    return (grouped << np.arange(0, 8, bits)).sum(-1).astype(np.uint8)


LARGEST = {2: 32767, 4: 127}  # activation code of each accuracy_level: int16 and int8


@dataclass(frozen=True)
class Bounded:
    """Values, and how far from them float32 kernels may be, in whatever order they add."""

    value: Array
    error: Array


def exact(x: Array) -> Bounded:
    return Bounded(x.astype(np.float64), np.zeros(x.shape))


def quantize_activations(x: Bounded, level: int) -> Bounded:
    """What rounding per 32 values leaves of x [..., K]; scale and code in float32, as the kernels compute them.

    A code may be one off where the error of x may carry a value over a tie.
    """
    value, error = np.zeros(x.value.shape), np.zeros(x.value.shape)
    for start in range(0, x.value.shape[-1], 32):
        at = np.s_[..., start : start + 32]
        unit, off = x.value[at].astype(np.float32), x.error[at]
        scale = np.abs(unit).max(axis=-1, keepdims=True) / np.float32(LARGEST[level])
        step = np.where(scale > 0, scale, np.float32(1))
        codes = np.rint(unit / step)
        largest_off = off.max(axis=-1, keepdims=True)
        off_scale = np.where(largest_off > 0, largest_off / LARGEST[level] + 1e-7 * scale, 0)
        off_code = np.where(off_scale > 0, (off + np.abs(codes) * off_scale) / step + 1e-7 * LARGEST[level], 0)
        sure = np.abs(unit / step - codes) + off_code < 0.5
        value[at] = codes.astype(np.float64) * scale
        error[at] = np.where(sure | (off_scale == 0), np.abs(codes) * off_scale, off + scale + off_scale)
    return Bounded(value, error)


def product(x: Bounded, bank: Bank, index: int | EllipsisType, level: int) -> Bounded:
    """x [T, K] times a matrix [N, K] of a bank (of a dense one: `...`), transposed."""
    if level in LARGEST and bank.bits < 16:
        x = quantize_activations(x, level)
    values, magnitudes = bank.values[index], bank.magnitudes[index]
    epsilon = 6e-8 * (16 + 4 * np.sqrt(values.shape[-1]))  # a sum's rounding grows like a random walk
    error = epsilon * (np.abs(x.value) @ magnitudes.T) + x.error @ np.abs(values).T
    return Bounded(x.value @ values.T, error)


def linear(x: Array, bank: Bank, bias: Array | None = None, level: int = 0) -> Bounded:
    """`Linear` on a dense bank, x [..., K]."""
    y = product(exact(x), bank, ..., level)
    value = y.value if bias is None else y.value + bias
    return Bounded(value, y.error + 1e-6 * np.abs(value))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _swiglu_oai(g: Array, u: Array, alpha: float = 1.702, limit: float = 7.0) -> Array:
    g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
    return (u + 1) * g * _sigmoid(alpha * g)


ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "silu": lambda g, u: g * _sigmoid(g) * u,
    "gelu": lambda g, u: 0.5 * g * (1 + np.vectorize(erf)(g / np.sqrt(2))) * u,
    "gelu_tanh": lambda g, u: 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * u,
    "swiglu_oai": _swiglu_oai,
}


@dataclass(frozen=True)
class Layer:
    """A layer's experts: banks, expert -> (bank, index) for each projection, and biases."""

    gate_up: Sequence[Bank]
    down: Sequence[Bank]
    gate_up_map: Sequence[tuple[int, int]]
    down_map: Sequence[tuple[int, int]]
    gate_up_bias: Array | None = None
    down_bias: Array | None = None
    activation: str = "silu"
    block: int = 32

    @property
    def count(self) -> int:
        return len(self.gate_up_map)


def experts(x: Array, weights: Array, ids: Array, layer: Layer, level: int = 0, **activation: Any) -> Array:
    return experts_bounded(x, weights, ids, layer, level, **activation).value


def experts_bounded(x: Array, weights: Array, ids: Array, layer: Layer, level: int = 0, **activation: Any) -> Bounded:
    value, error = np.zeros(x.shape), np.zeros(x.shape)
    for t, j in np.ndindex(*weights.shape):
        if weights[t, j] != 0:
            y = _expert(exact(x[t : t + 1]), int(ids[t, j]), layer, level, activation)
            value[t] += weights[t, j] * y.value[0]
            error[t] += np.abs(weights[t, j]) * (y.error + 1e-6 * np.abs(y.value))[0]
    return Bounded(value, error)


def _expert(x: Bounded, e: int, layer: Layer, level: int, activation: dict[str, Any]) -> Bounded:
    bank, index = layer.gate_up_map[e]
    mixed = product(x, layer.gate_up[bank], index, level)
    value = mixed.value if layer.gate_up_bias is None else mixed.value + layer.gate_up_bias[e]
    off = mixed.error + 4e-7 * np.abs(value)
    hidden = ACTIVATIONS[layer.activation](value[:, 0::2], value[:, 1::2], **activation)
    # No activation is steeper than 1.2 in its gate; up enters as u or u + 1.
    gate, up = np.abs(value[:, 0::2]), np.abs(value[:, 1::2])
    error = 1.2 * off[:, 0::2] * (up + off[:, 1::2] + 1) + gate * off[:, 1::2]
    bank, index = layer.down_map[e]
    out = product(Bounded(hidden, error), layer.down[bank], index, level)
    return out if layer.down_bias is None else Bounded(out.value + layer.down_bias[e], out.error)


def route(
    logits: Array, bias: Array | None = None, *, k: int, score: str, normalize: int = 0, epsilon: float = 0.0,
    scaling: float = 1.0, groups: int = 1, kept_groups: int = 1, group_score: str = "max", skip_threshold: float = 0.0,
    margin: float = 0.0,
) -> tuple[Array, Array]:  # fmt: skip
    logits = logits.astype(np.float64)
    scores = {"softmax": _softmax, "sigmoid": _sigmoid, "softmax_topk": lambda x: x, "sparsemixer": lambda x: x}[score](
        logits
    )
    choice = scores if bias is None else scores + bias
    if groups > 1:
        ranked = np.sort(choice.reshape(len(choice), groups, choice.shape[1] // groups), axis=-1)
        of_group = ranked[..., -1] if group_score == "max" else ranked[..., -2:].sum(-1)
        kept = np.argsort(-of_group, axis=-1, kind="stable")[:, :kept_groups]
        eligible = np.zeros(of_group.shape, bool)
        np.put_along_axis(eligible, kept, True, axis=-1)
        choice = np.where(np.repeat(eligible, choice.shape[1] // groups, axis=-1), choice, -np.inf)
    chosen = np.argsort(-choice, axis=-1, kind="stable")[:, :k]
    weights = np.take_along_axis(scores, chosen, axis=-1)
    if score == "softmax_topk":
        weights = _softmax(weights)
    if score == "sparsemixer":
        weights = _sparsemixer(logits, chosen, margin)
    if normalize:
        weights = weights / (weights.sum(-1, keepdims=True) + epsilon)
    return np.where(weights < skip_threshold, 0.0, weights) * scaling, chosen


def _sparsemixer(logits: Array, chosen: Array, margin: float) -> Array:
    weights = np.zeros(chosen.shape)
    for t, j in np.ndindex(*chosen.shape):
        best = logits[t, chosen[t, j]]
        near = (best - logits[t]) <= margin * np.maximum(np.abs(logits[t]), best)
        near[chosen[t, :j]] = False
        weights[t, j] = 1 / np.exp(logits[t, near] - best).sum()
    return weights


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def relative_error(result: Array, expected: Array) -> float:
    """Largest difference, relative to the largest expected value."""
    assert result.shape == expected.shape, f"{result.shape} is not {expected.shape}"
    if not expected.size:
        return 0.0
    return float(np.abs(result - expected).max() / max(np.abs(expected).max(), 1e-30))


def assert_within(result: Array, expected: Bounded) -> None:
    assert result.shape == expected.value.shape, f"{result.shape} is not {expected.value.shape}"
    off = np.abs(result - expected.value) - expected.error - 1e-30
    assert (off <= 0).all(), f"{off.max()} too far off, at {np.unravel_index(np.argmax(off), off.shape)}"
