"""Random experts of one layer, and what they compute, in numpy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLOCK = 32
WIDTHS = {"4-bit": (4,), "8-bit": (8,), "16-bit": (16,), "mixed 4/8/16": (4, 8, 16)}


@dataclass(frozen=True)
class Shape:
    experts: int = 64
    hidden: int = 2048
    intermediate: int = 1024
    k: int = 8


FULL = Shape()


@dataclass(frozen=True)
class Layer:
    """Symmetric banks, one per width; expert e is row e // len(widths) of bank e % len(widths), for both projections.

    Attributes:
        gate_up, down: per bank (codes uint8 [B, N, K * bits / 8], scales float16 [B, N, K / 32]),
            or (weights float16 [B, N, K],) at 16 bits; N x K is 2I x H and H x I.
    """

    shape: Shape
    widths: tuple[int, ...]
    gate_up: list[tuple[np.ndarray, ...]]
    down: list[tuple[np.ndarray, ...]]

    @property
    def expert_bytes(self) -> float:
        """Stored bytes of one expert, averaged over the experts."""
        return sum(t.nbytes for bank in (*self.gate_up, *self.down) for t in bank) / self.shape.experts

    @cached_property
    def map(self) -> list[int]:
        """The Experts op's (bank, index) of every expert, flattened."""
        count = len(self.widths)
        return [value for e in range(self.shape.experts) for value in (e % count, e // count)]

    def expert(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 gate_up [2I, H] and down [H, I] of one expert."""
        bank, index = self.map[2 * e : 2 * e + 2]
        sides = [[t[index] for t in side[bank]] for side in (self.gate_up, self.down)]
        gate_up, down = (_values(side, self.widths[bank]) for side in sides)
        return gate_up, down


def random_layer(shape: Shape, widths: tuple[int, ...], seed: int = 0) -> Layer:
    """Weights spread around 0 so that the outputs are of the size of the inputs."""
    rng = np.random.default_rng(seed)
    counts = [len(range(b, shape.experts, len(widths))) for b in range(len(widths))]
    sides = [
        [_random_bank(rng, (count, rows, columns), bits) for count, bits in zip(counts, widths, strict=True)]
        for rows, columns in ((2 * shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate))
    ]
    return Layer(shape, widths, *sides)


def _random_bank(rng: np.random.Generator, shape: tuple[int, int, int], bits: int) -> tuple[np.ndarray, ...]:
    size = shape[-1] ** -0.5
    if bits == 16:
        return ((rng.standard_normal(shape, dtype=np.float32) * size).astype(np.float16),)
    codes = rng.integers(0, 256, (*shape[:-1], shape[-1] * bits // 8), dtype=np.uint8)
    spread = rng.uniform(0.5, 1.5, (*shape[:-1], shape[-1] // BLOCK))
    return codes, (spread * size * 3.4 / 2**bits).astype(np.float16)  # uniform codes deviate by 2^bits / sqrt(12)


def _values(tensors: list[np.ndarray], bits: int) -> np.ndarray:
    """float32 [N, K] of one stored matrix."""
    if bits == 16:
        return tensors[0].astype(np.float32)
    codes, scales = tensors
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
    centred = codes.astype(np.float32) - 2 ** (bits - 1)
    return centred * np.repeat(scales.astype(np.float32), BLOCK, axis=-1)


@dataclass(frozen=True)
class Tokens:
    """x float32 [T, H], routing weights float32 [T, k] that sum to 1, experts int64 [T, k] without repeats."""

    x: np.ndarray
    weights: np.ndarray
    experts: np.ndarray


def random_tokens(shape: Shape, count: int, seed: int) -> Tokens:
    """Experts at random; those of a single token go around all of them as `seed` grows, so that no cache holds them."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(shape.experts)[: shape.k] for _ in range(count)])
    if count == 1:
        ids = (np.arange(shape.k) + seed * shape.k)[None] % shape.experts
    raw = rng.uniform(0.5, 1.5, (count, shape.k)).astype(np.float32)
    x = rng.standard_normal((count, shape.hidden), dtype=np.float32)
    return Tokens(x, raw / raw.sum(axis=1, keepdims=True), ids.astype(np.int64))


def expected(layer: Layer, tokens: Tokens) -> np.ndarray:
    """float32 [T, H]: sum over the chosen experts of weight * down(silu(gate x) * up x)."""
    y = np.zeros_like(tokens.x)
    for e in np.unique(tokens.experts):
        rows, slots = np.nonzero(tokens.experts == e)
        gate_up, down = layer.expert(int(e))
        mixed = tokens.x[rows] @ gate_up.T
        gate, up = mixed[:, 0::2], mixed[:, 1::2]
        y[rows] += tokens.weights[rows, slots][:, None] * ((gate / (1 + np.exp(-gate)) * up) @ down.T)
    return y
