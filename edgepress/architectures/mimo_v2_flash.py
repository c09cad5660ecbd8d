"""MiMo-V2-Flash: windows with sinks, twice the KV heads and a rotary base of their own; values narrower than keys."""

from dataclasses import replace

from edgepress.architecture import Architecture, Attention, Experts, ModelSpec
from edgepress.architectures import _names as names
from edgepress.facts import Derived, From, Layers

_FULL = Attention(
    output_bias=False,
    value_head_dim=From("v_head_dim"),
    value_scale=From("attention_value_scale", 1.0),
)

ARCHITECTURE = Architecture(
    spec=ModelSpec(
        attention=_FULL,
        other_attention=replace(
            _FULL,
            kv_heads=Derived(lambda heads: 2 * heads, From("num_key_value_heads")),
            sinks=True,
            window=Derived(
                lambda before, window: window if before is None else before + 1,
                From("sliding_window_size", None),
                From("sliding_window", 129),
            ),
            rope=names.rope_of("sliding_attention", 1e4, 0.334),
        ),
        other_layers=names.layers_of_type("sliding_attention", Layers(lambda i: i > 0 and (i + 1) % 6 != 0)),
        norm_epsilon=From("rms_norm_eps", 1e-5),
        rope=names.rope_of("full_attention", 5e6, 0.334),
        experts=Experts(
            count=From("n_routed_experts"),
            intermediate=From("moe_intermediate_size"),
            routing=names.SIGMOID_ROUTING,
            dense_layers=names.dense_layers(1),
        ),
    ),
    tensors=names.DECODER
    | names.ATTENTION
    | names.FFN
    | names.EXPERTS
    | names.CORRECTION_BIAS
    | {"layers.{i}.sinks": "model.layers.{i}.self_attn.attention_sink_bias"},
    fused=names.FUSED_EXPERTS,
    accepts={"hidden_act": ("silu",)},
    ignored_tensors=(r"model\.mtp\..*",),  # multi-token prediction, which only serves speculative decoding
)
