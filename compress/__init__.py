"""edgepress.compress: from a checkpoint and a budget to a plan, and from a plan to pressed weights."""

from edgepress.compress.apply import apply
from edgepress.compress.packed import is_packed, open_packed
from edgepress.compress.packer import Packer
from edgepress.compress.planning import make_plan, size_of
from edgepress.compress.quantizers import QUANTIZERS

__all__ = ["QUANTIZERS", "Packer", "apply", "is_packed", "make_plan", "open_packed", "size_of"]
