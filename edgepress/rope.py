"""Inverse frequencies of rotary position embeddings, as transformers' modeling_rope_utils defines them."""

import math

import numpy as np

from edgepress.architecture import Rope
from edgepress.errors import UnsupportedModel


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[np.ndarray, float]:
    """(float32 [rotary_dim / 2] inverse frequencies, factor applied to cos and sin).

    Raises:
        UnsupportedModel: a kind of scaling that is not handled.
    """
    dim = int(head_dim * rope.partial)
    base = 1.0 / rope.theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    if rope.kind == "default":
        return base.astype(np.float32), 1.0
    if rope.kind == "linear":
        return (base / _parameter(rope, "factor")).astype(np.float32), 1.0
    if rope.kind == "llama3":
        return _llama3(base, rope).astype(np.float32), 1.0
    raise UnsupportedModel(f"rotary scaling {rope.kind!r} is not handled; handled: default, linear, llama3")


def _llama3(base: np.ndarray, rope: Rope) -> np.ndarray:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between interpolated."""
    factor, low = _parameter(rope, "factor"), _parameter(rope, "low_freq_factor")
    high, original = (
        _parameter(rope, "high_freq_factor"),
        _parameter(rope, "original_max_position_embeddings"),
    )
    wavelength = 2 * math.pi / base
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return (1 - smooth) * base / factor + smooth * base


def _parameter(rope: Rope, name: str) -> float:
    try:
        return float(rope.scaling[name])
    except (KeyError, TypeError, ValueError):
        raise UnsupportedModel(f"rotary scaling {rope.kind!r} needs {name} in config.json") from None
