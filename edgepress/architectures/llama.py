"""Llama, and the dense models that share its form (SmolLM2, TinyLlama)."""

from edgepress.architecture import Architecture, Attention, ModelSpec
from edgepress.architectures import _names as names
from edgepress.facts import From

ARCHITECTURE = Architecture(
    spec=ModelSpec(attention=Attention(), mlp_bias=From("mlp_bias", False)),
    tensors=names.DECODER | names.ATTENTION | names.FFN,
    accepts=names.ACCEPTS | {"rope_interleaved": (False,)},
    ignores=("is_llama_config", "transformers.js_config"),
    ignored_tensors=(r".*\.rotary_emb\.inv_freq",),
)
