"""Quantizers by name: plain functions `quantize(weights, format, block_size, importance=None) -> Quantized`.

kquant and rtn run in the native library; REFERENCES are the same in numpy, slow and obvious, and tests hold the two
together. gptq takes its own kind of importance (gptq.Inputs).
"""

from collections.abc import Callable

from edgepress.compress.quantizers import gptq, hqq, kquant, native, rtn
from edgepress.compress.quantizers.codec import Quantized, dequantize

QUANTIZERS: dict[str, Callable[..., Quantized]] = {
    "gptq": gptq.quantize, "hqq": hqq.quantize, "kquant": native.kquant, "rtn": native.rtn,
}  # fmt: skip
REFERENCES: dict[str, Callable[..., Quantized]] = {"kquant": kquant.quantize, "rtn": rtn.quantize}

__all__ = ["QUANTIZERS", "REFERENCES", "Quantized", "dequantize"]
