"""Qwen3.5, text: the layers of Qwen3.5-MoE, with a dense block in the place of experts."""

from dataclasses import replace

from edgepress.architectures.qwen3_5_moe_text import ARCHITECTURE as MIXTURE
from edgepress.facts import From

ARCHITECTURE = replace(MIXTURE, spec=replace(MIXTURE.spec, experts=None, intermediate=From("intermediate_size")))
