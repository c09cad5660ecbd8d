"""Hunyuan-A13B: q/k norms after the rotation, softmax top-k routing, a shared expert."""

from edgepress.architecture import Architecture, Attention, Experts, ModelSpec, Rope, Routing
from edgepress.architectures import _names as names
from edgepress.facts import Derived, From

_MLP = "model.layers.{i}.mlp"

ARCHITECTURE = Architecture(
    spec=ModelSpec(
        attention=Attention(qk_norm="head", qk_norm_last=True),
        norm_epsilon=From("rms_norm_eps", 1e-5),
        # A fixed `alpha` makes the scaling that these checkpoints call dynamic a static one.
        rope=Rope(kind=Derived(lambda kind: "ntk_alpha" if kind == "dynamic" else kind, From("rope_type", "default"))),
        experts=Experts(
            count=names.same_in_all_layers("num_experts"),
            intermediate=From("intermediate_size"),
            routing=Routing(k=names.same_in_all_layers("moe_topk"), normalize=True),
            shared_intermediate=From("intermediate_size"),
        ),
    ),
    tensors=names.DECODER
    | names.ATTENTION
    | names.EXPERTS
    | names.swiglu("layers.{i}.shared", f"{_MLP}.shared_mlp")
    | {
        "layers.{i}.q_norm": "model.layers.{i}.self_attn.query_layernorm.weight",
        "layers.{i}.k_norm": "model.layers.{i}.self_attn.key_layernorm.weight",
        "layers.{i}.router": f"{_MLP}.gate.wg.weight",
    },
    fused=names.FUSED_EXPERTS,
    accepts=names.ACCEPTS,
    ignores=("eod_token_id", "sep_token_id"),
)
