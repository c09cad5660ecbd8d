"""Tensor names and config facts that most decoder families share, to be extended in the literals."""

from typing import Any

from edgepress.architecture import Fused
from edgepress.facts import From, Layers

DECODER = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layers.{i}.attention_norm": "model.layers.{i}.input_layernorm.weight",
    "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm.weight",
}

ATTENTION = {
    f"layers.{{i}}.{role}{suffix}": f"model.layers.{{i}}.self_attn.{name}_proj.{leaf}"
    for role, name in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "o"))
    for suffix, leaf in (("", "weight"), ("_bias", "bias"))
}

QK_NORM = {
    "layers.{i}.q_norm": "model.layers.{i}.self_attn.q_norm.weight",
    "layers.{i}.k_norm": "model.layers.{i}.self_attn.k_norm.weight",
}


def swiglu(role: str, path: str) -> dict[str, str]:
    """gate, up and down projections of one MLP, weights and biases."""
    return {
        f"{role}.{part}{suffix}": f"{path}.{part}_proj.{leaf}"
        for part in ("gate", "up", "down")
        for suffix, leaf in (("", "weight"), ("_bias", "bias"))
    }


def w123(role: str, path: str) -> dict[str, str]:
    """The same where gate, up and down are called w1, w3 and w2, and have no biases."""
    return {f"{role}.{part}": f"{path}.{leaf}.weight" for part, leaf in (("gate", "w1"), ("up", "w3"), ("down", "w2"))}


def layers_of_type(wanted: str, otherwise: Any = ()) -> Any:
    """A leaf: the layers that config.json gives this type; the others are of full_attention.

    `otherwise`: a leaf, the layers where config.json gives no types.
    """

    def where(i: int, types: tuple[str, ...], chosen: tuple[int, ...]) -> bool:
        if not types:
            return i in chosen
        if types[i] not in (wanted, "full_attention"):
            raise ValueError(f"layer type {types[i]!r} is not known")
        return types[i] == wanted

    return Layers(where, From("layer_types", ()), otherwise)


FFN = swiglu("layers.{i}.ffn", "model.layers.{i}.mlp")

EXPERTS = {
    "layers.{i}.router": "model.layers.{i}.mlp.gate.weight",
    **swiglu("layers.{i}.experts.{e}", "model.layers.{i}.mlp.experts.{e}"),
}


def fused_experts(gate_up: str, down: str) -> tuple[Fused, ...]:
    expert = "layers.{i}.experts.{e}"
    return Fused(gate_up, (f"{expert}.gate", f"{expert}.up")), Fused(down, (f"{expert}.down",))


_EXPERTS = "model.layers.{i}.mlp.experts"
FUSED_EXPERTS = fused_experts(f"{_EXPERTS}.gate_up_proj", f"{_EXPERTS}.down_proj")

ACCEPTS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "partial_rotary_factor": (1.0,),
}
