"""edgepress.compress: from a checkpoint and a budget to a plan, and from a plan to pressed weights.

What needs torch is imported by its module: `edgepress.compress.calibrate` and `edgepress.compress.reference`.
"""

from edgepress.compress.apply import apply
from edgepress.compress.packed import is_packed, open_packed
from edgepress.compress.packer import Packer
from edgepress.compress.planning import make_plan, size_of
from edgepress.compress.prune import choose_experts
from edgepress.compress.quantizers import QUANTIZERS
from edgepress.compress.statistics import Statistics, load_statistics

__all__ = [
    "QUANTIZERS",
    "Packer",
    "Statistics",
    "apply",
    "choose_experts",
    "is_packed",
    "load_statistics",
    "make_plan",
    "open_packed",
    "size_of",
]
