"""Tensor names and config facts that most decoder families share, to be extended in the literals."""

from typing import Any

from edgepress.architecture import Fused, Routing
from edgepress.errors import UnsupportedModel
from edgepress.facts import Derived, From, Layers

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

SHARED = swiglu("layers.{i}.shared", "model.layers.{i}.mlp.shared_experts")

CORRECTION_BIAS = {"layers.{i}.router_bias": "model.layers.{i}.mlp.gate.e_score_correction_bias"}

# Norms of what attention and experts add, in models without norms before them.
POST_NORMS = {
    "layers.{i}.attention_post_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "layers.{i}.ffn_post_norm": "model.layers.{i}.post_feedforward_layernorm.weight",
}

SIGMOID_ROUTING = Routing(
    score="sigmoid",
    normalize=From("norm_topk_prob", True),
    epsilon=1e-20,
    correction_bias=True,
    scaling=From("routed_scaling_factor", 1.0),
    groups=From("n_group", 1),
    kept_groups=From("topk_group", 1),
    group_score="sum2",
)


def same_in_all_layers(key: str) -> Any:
    """A leaf that the config gives once, or as a list with an entry for each layer."""

    def same(value: Any) -> Any:
        if isinstance(value, tuple) and len(set(value)) > 1:
            raise UnsupportedModel(f"config.json has {key} that differs from layer to layer, which is not handled")
        return value[0] if isinstance(value, tuple) else value

    return Derived(same, From(key))


WINDOW = Derived(lambda window: window or None, From("sliding_window", None))
UPPER_LAYERS_SLIDE = layers_of_type(
    "sliding_attention",
    Layers(lambda i, on, first: on and i >= first, From("use_sliding_window", False), From("max_window_layers", 28)),
)

ACCEPTS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "partial_rotary_factor": (1.0,),
}
