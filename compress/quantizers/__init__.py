"""Quantizers by name: plain functions `quantize(weights, format, block_size, importance=None) -> Quantized`."""

from collections.abc import Callable

from edgepress.compress.quantizers import kquant, rtn
from edgepress.compress.quantizers.codec import Quantized, dequantize

QUANTIZERS: dict[str, Callable[..., Quantized]] = {"kquant": kquant.quantize, "rtn": rtn.quantize}

__all__ = ["QUANTIZERS", "Quantized", "dequantize"]
