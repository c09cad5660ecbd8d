"""Quantizers by name: plain functions `quantize(weights, format, block_size, importance=None) -> Quantized`.

They run in the native library; REFERENCES are the same in numpy, slow and obvious, and tests hold the two together.
"""

from collections.abc import Callable

from edgepress.compress.quantizers import kquant, native, rtn
from edgepress.compress.quantizers.codec import Quantized, dequantize

QUANTIZERS: dict[str, Callable[..., Quantized]] = {"kquant": native.kquant, "rtn": native.rtn}
REFERENCES: dict[str, Callable[..., Quantized]] = {"kquant": kquant.quantize, "rtn": rtn.quantize}

__all__ = ["QUANTIZERS", "REFERENCES", "Quantized", "dequantize"]
