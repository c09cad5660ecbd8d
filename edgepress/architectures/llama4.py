"""Llama 4 (Scout, Maverick): the language model of a checkpoint that also sees; vision tensors are left out."""

from dataclasses import replace

from edgepress.architectures.llama4_text import ARCHITECTURE as TEXT

_PREFIX = "language_model."

ARCHITECTURE = replace(
    TEXT,
    text="llama4_text",
    prefix=_PREFIX,
    tensors={role: f"{_PREFIX}{name}" for role, name in TEXT.tensors.items()},
    fused=tuple(replace(fused, name=f"{_PREFIX}{fused.name}") for fused in TEXT.fused),
    ignores=("vision_config", *(f"{token}_token_index" for token in ("boi", "eoi", "image"))),
    ignored_tensors=(r"vision_model\..*", r"multi_modal_projector\..*"),
)
