"""What storing a matrix at a format costs in accuracy, measured on the matrix itself.

The cost is noise over signal in the output of the module, ||(W - W')x||^2 / ||Wx||^2, with E[x^2] per column from
calibration, or 1. An expert counts by its share of what its layer's experts put out: its frequency times its mean gate
squared (after PMQ, arXiv 2410.06270), or equally. Noise of the head reaches the logits as it is; a decoder layer adds
two of the 2L terms of the residual stream, so noise of any other matrix counts 1 / 2L. On the sample model these costs
follow the KL divergence that 4 bits in one kind of matrix cause within a factor of 2.5, with the head at _HEAD.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgepress.checkpoint import Checkpoint
from edgepress.compress.allocate import Option
from edgepress.compress.quantizers import QUANTIZERS, dequantize
from edgepress.compress.statistics import Statistics
from edgepress.formats import F16, Format, fits
from edgepress.plan import expert_shapes, matrix_roles
from edgepress.progress import Track

_SAMPLED_ROWS = 64
_HEAD = 2.0
_LEAST_SHARE = 0.01  # of the mean: an expert that calibration never saw still counts a little


@dataclass(frozen=True)
class Unit:
    """A matrix whose format is chosen. `role` is a matrix role, or `layers.{i}.experts.{e}.gate_up` (or `.down`)."""

    role: str
    weights: int
    options: tuple[Option, ...]
    layer: int | None = None
    expert: int | None = None
    projection: str = ""


@dataclass(frozen=True)
class _Measured:
    shape: tuple[int, int]
    signal: float
    noise: Mapping[Format, float]

    def options(self, factor: float, block_size: int) -> tuple[Option, ...]:
        return tuple(Option(f.name, f.matrix_bytes(*self.shape, block_size), n * factor) for f, n in self.noise.items())


@dataclass(frozen=True)
class Meter:
    """Measures the units of a checkpoint.

    Attributes:
        formats: those to measure; a matrix whose rows do not divide into blocks is only offered 16 bits.
        statistics: of a calibration, or None.
    """

    checkpoint: Checkpoint
    formats: Sequence[Format]
    quantizer: str
    block_size: int
    statistics: Statistics | None

    def units(self, kept: Mapping[int, Sequence[int]], track: Track) -> list[Unit]:
        """Every matrix outside the experts, then the kept experts' matrices layer by layer."""
        spec = self.checkpoint.spec
        units = [self._dense(*item) for item in track(list(matrix_roles(spec)), "measuring matrices")]
        for layer in track(list(kept), "measuring experts"):
            for projection in expert_shapes(spec):
                units += self._experts(layer, kept[layer], projection)
        return units

    def _dense(self, role: str, shape: tuple[int, int]) -> Unit:
        spec = self.checkpoint.spec
        head = "embedding" if spec.tied_head else "head"
        column_role = "head" if role == head else role
        measured = self._measure([role], shape, self._input_square(column_role, shape[1]))
        factor = _HEAD if role == head else 1 / (2 * spec.layers)
        options = measured.options(factor / measured.signal, self.block_size)
        return Unit(role, shape[0] * shape[1], options)

    def _experts(self, layer: int, kept: Sequence[int], projection: str) -> Iterator[Unit]:
        spec = self.checkpoint.spec
        shape = expert_shapes(spec)[projection]
        columns = self._input_square(f"layers.{layer}.experts.{projection}", shape[1])
        parts = ("gate", "up") if projection == "gate_up" else ("down",)
        shares = self._shares(layer, kept)
        measured = [self._measure([f"layers.{layer}.experts.{e}.{p}" for p in parts], shape, columns) for e in kept]
        signal = sum(share * m.signal for share, m in zip(shares, measured, strict=True))
        for e, share, m in zip(kept, shares, measured, strict=True):
            options = m.options(share / signal / (2 * spec.layers), self.block_size)
            role = f"layers.{layer}.experts.{e}.{projection}"
            yield Unit(role, shape[0] * shape[1], options, layer, e, projection)

    def _shares(self, layer: int, kept: Sequence[int]) -> np.ndarray:
        """How much each kept expert's noise counts within its layer, [kept], up to a common factor."""
        if self.statistics is None:
            return np.ones(len(kept))
        frequency = np.maximum(self.statistics.frequency[layer][kept], 1)
        shares = self.statistics.gate_mass[layer][kept] ** 2 / frequency
        return np.maximum(shares, _LEAST_SHARE * shares.mean())

    def _input_square(self, role: str, columns: int) -> np.ndarray:
        known = self.statistics.input_square if self.statistics else {}
        return np.asarray(known.get(role, np.ones(columns)), np.float64)

    def _measure(self, roles: list[str], shape: tuple[int, int], input_square: np.ndarray) -> _Measured:
        """Signal and noise of a matrix (the rows of several roles), from a sample of its rows."""
        sample = np.concatenate([_sample(self.checkpoint, role) for role in roles])
        signal = float((sample.astype(np.float64) ** 2 @ input_square).sum()) or 1.0
        noise = {f: self._noise(sample, f, input_square) for f in self.formats if fits(shape[1], self.block_size)}
        return _Measured(shape, signal, noise or {F16: 0.0})

    def _noise(self, sample: np.ndarray, chosen: Format, input_square: np.ndarray) -> float:
        if not chosen.quantized:
            return 0.0
        stored = dequantize(QUANTIZERS[self.quantizer](sample, chosen, self.block_size), chosen, self.block_size)
        return float(((stored - sample).astype(np.float64) ** 2 @ input_square).sum())


def _sample(checkpoint: Checkpoint, role: str) -> np.ndarray:
    """Up to 64 rows, evenly spaced, in float32."""
    rows, _ = checkpoint.shape(role)
    chosen = range(0, rows, -(-rows // _SAMPLED_ROWS))
    return np.concatenate([checkpoint.rows(role, row, row + 1) for row in chosen]).astype(np.float32)
