"""Inverse frequencies of rotary position embeddings, as transformers' modeling_rope_utils defines them."""

import math

import numpy as np

from edgepress.architecture import ModelSpec, Rope
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
    if rope.kind == "yarn":
        return _yarn(base, rope, dim).astype(np.float32), _yarn_attention_factor(rope)
    raise UnsupportedModel(f"rotary scaling {rope.kind!r} is not handled; handled: default, linear, llama3, yarn")


def softmax_scale(spec: ModelSpec) -> float:
    """What scores of latent attention are multiplied by: DeepSeek applies yarn's mscale to them, twice."""
    a, rope = spec.attention, spec.rope
    scale = (a.head_dim + a.rope_head_dim) ** -0.5
    if rope.kind == "default" or not rope.scaling.get("mscale_all_dim"):
        return float(scale)
    return float(scale * _mscale(_parameter(rope, "factor"), _parameter(rope, "mscale_all_dim")) ** 2)


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


def _yarn(base: np.ndarray, rope: Rope, dim: int) -> np.ndarray:
    """YaRN (arXiv 2309.00071): dimensions that turn often keep their frequency, slow ones are divided by `factor`."""
    original = _parameter(rope, "original_max_position_embeddings")

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = dimension(rope.scaling.get("beta_fast") or 32)
    high = dimension(rope.scaling.get("beta_slow") or 1)
    if rope.scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low or 0.001), 0, 1)
    return base / _parameter(rope, "factor") * ramp + base * (1 - ramp)


def _yarn_attention_factor(rope: Rope) -> float:
    if rope.scaling.get("attention_factor") is not None:
        return _parameter(rope, "attention_factor")
    factor = _parameter(rope, "factor")
    if rope.scaling.get("mscale") and rope.scaling.get("mscale_all_dim"):
        return _mscale(factor, _parameter(rope, "mscale")) / _mscale(factor, _parameter(rope, "mscale_all_dim"))
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _parameter(rope: Rope, name: str) -> float:
    try:
        return float(rope.scaling[name])
    except (KeyError, TypeError, ValueError):
        raise UnsupportedModel(f"rotary scaling {rope.kind!r} needs {name} in config.json") from None
