"""DeepSeek-V3 and R1, Kimi-K2: latent attention, sigmoid routing with a choosing bias and group limits, a shared
expert, dense first layers."""

from edgepress.architecture import Architecture, Attention, Experts, ModelSpec, Rope
from edgepress.architectures import _names as names
from edgepress.facts import From

_ATTENTION = "model.layers.{i}.self_attn"

ARCHITECTURE = Architecture(
    spec=ModelSpec(
        attention=Attention(
            kind="mla",
            head_dim=From("qk_nope_head_dim"),
            q_rank=From("q_lora_rank", None),
            kv_rank=From("kv_lora_rank"),
            rope_head_dim=From("qk_rope_head_dim"),
            value_head_dim=From("v_head_dim"),
        ),
        rope=Rope(interleaved=From("rope_interleave", True)),
        experts=Experts(
            count=From("n_routed_experts"),
            intermediate=From("moe_intermediate_size"),
            routing=names.SIGMOID_ROUTING,
            shared_intermediate=From("moe_intermediate_size"),
            shared_count=From("n_shared_experts", 1),
            first_dense=From("first_k_dense_replace", 0),
        ),
    ),
    tensors=names.DECODER
    | names.FFN
    | names.EXPERTS
    | names.SHARED
    | names.CORRECTION_BIAS
    | {
        "layers.{i}.q": f"{_ATTENTION}.q_proj.weight",
        "layers.{i}.q_a": f"{_ATTENTION}.q_a_proj.weight",
        "layers.{i}.q_a_norm": f"{_ATTENTION}.q_a_layernorm.weight",
        "layers.{i}.q_b": f"{_ATTENTION}.q_b_proj.weight",
        "layers.{i}.kv_a": f"{_ATTENTION}.kv_a_proj_with_mqa.weight",
        "layers.{i}.kv_a_norm": f"{_ATTENTION}.kv_a_layernorm.weight",
        "layers.{i}.kv_b": f"{_ATTENTION}.kv_b_proj.weight",
        "layers.{i}.o": f"{_ATTENTION}.o_proj.weight",
    },
    fused=names.FUSED_EXPERTS,
    accepts={
        "hidden_act": ("silu",),
        "scoring_func": ("sigmoid",),
        "topk_method": ("noaux_tc",),
        "moe_layer_freq": (1,),
        "attention_bias": (False,),
    },
    ignores=(
        "ep_size",
        "seq_aux",
        "aux_loss_alpha",
        "num_nextn_predict_layers",
        "qk_head_dim",
        "head_dim",
    ),
    # The multi-token-prediction layer follows the last decoder layer and only serves speculative decoding.
    ignored_tensors=(r"model\.layers\.{layers}\..*",),
)
