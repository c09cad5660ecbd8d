"""Each literal reads what transformers writes; every fact is handled, ignored, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from edgepress.architecture import known_architectures, load_architecture, read_spec
from edgepress.checkpoint import open_checkpoint, with_floats
from edgepress.errors import UnsupportedModel
from edgepress.roles import parameters, roles, split_role
from tests.tiny import COMPOSITES, ENCODERS, OF_TYPE, tiny_checkpoint

# What transformers' default config of a type leaves open.
OPEN = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
}


def spec_from(model_type: str, **facts: Any) -> Any:
    """The spec of transformers' own default config of a type, as it is saved, with some facts changed."""
    facts = OPEN.get(model_type, {}) | facts
    config = with_floats(json.loads(AutoConfig.for_model(model_type, **facts).to_json_string(use_diff=False)))
    return read_spec(config, load_architecture(model_type))


def test_every_literal_has_a_tiny_checkpoint() -> None:
    assert {*OF_TYPE, *ENCODERS, *COMPOSITES} == set(known_architectures())


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_every_literal_consumes_a_checkpoint_that_transformers_wrote(
    model_type: str, tiny: Callable[[str], Path]
) -> None:
    assert open_checkpoint(tiny(model_type)).spec.model_type == model_type


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_parameters_are_as_many_as_transformers_counts(model_type: str, tiny: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny(model_type))
    choosing = ("e_score_correction_bias", "expert_bias")
    biases = sum(b.numel() for name, b in model.named_buffers() if name.endswith(choosing))
    assert parameters(open_checkpoint(tiny(model_type)).spec) == model.num_parameters() + biases


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_the_full_size_default_config_is_read(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    spec = spec_from(model_type)
    assert (spec.layers, spec.hidden_size, spec.vocab_size) == (
        config.num_hidden_layers, config.hidden_size, config.vocab_size
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "facts"),
    [
        ("qwen3_moe", {"attention_bias": True}),
        ("qwen3_moe", {"mlp_only_layers": [0]}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
        ("qwen3_moe", {"tie_word_embeddings": True}),
        ("olmoe", {"attention_bias": True, "clip_qkv": 8.0}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": True}),
        ("deepseek_v3", {"q_lora_rank": None}),
    ],
)
def test_variants_are_consumed(model_type: str, facts: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_checkpoint(model_type, tmp_path / "model", **facts)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensor("final_norm").shape == (64,)


def test_qwen3_moe_routes_as_its_config_says() -> None:
    routing = spec_from("qwen3_moe", norm_topk_prob=True).experts.routing
    assert (routing.k, routing.score, routing.normalize) == (8, "softmax", True)


def test_mixtral_always_renormalizes() -> None:
    assert spec_from("mixtral").experts.routing.normalize is True


def test_olmoe_norms_whole_projections() -> None:
    assert spec_from("olmoe").attention.qk_norm == "full"


def test_deepseek_v3_routes_by_sigmoid_with_groups_bias_and_scaling() -> None:
    routing = spec_from("deepseek_v3").experts.routing
    assert (routing.score, routing.groups, routing.kept_groups, routing.group_score) == ("sigmoid", 8, 4, "sum2")
    assert (routing.correction_bias, routing.scaling, routing.normalize) == (True, 2.5, True)


def test_deepseek_v3_has_dense_layers_and_a_shared_expert() -> None:
    spec = spec_from("deepseek_v3")
    assert spec.expert_layers == list(range(3, 61))
    shapes = dict(roles(spec))
    assert shapes["layers.0.ffn.up"] == (18432, 7168)
    assert shapes["layers.3.shared.up"] == (2048, 7168)


def test_llama_has_no_experts() -> None:
    spec = spec_from("llama")
    assert spec.experts is None
    assert spec.expert_layers == []


def test_heads_without_head_dim_share_the_hidden_size() -> None:
    assert spec_from("olmoe", hidden_size=1024, num_attention_heads=8).attention.head_dim == 128


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ],
)
def test_old_and_new_spellings_of_rotary_parameters_mean_the_same(rope: dict[str, Any]) -> None:
    config = {**AutoConfig.for_model("llama").to_dict(), "rope_parameters": None, **rope}
    spec = read_spec(config, load_architecture("llama"))
    assert (spec.rope.theta, spec.rope.kind, dict(spec.rope.scaling)) == (5e5, "default", {})


def test_llama3_scaling_is_kept() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = {**AutoConfig.for_model("llama").to_dict(), "rope_parameters": {"rope_type": "llama3", **scaling}}
    spec = read_spec(config, load_architecture("llama"))
    assert (spec.rope.kind, spec.rope.scaling) == ("llama3", scaling)


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_a_fact_that_nobody_knows_is_refused_by_name(model_type: str) -> None:
    config = {**AutoConfig.for_model(model_type, **OPEN.get(model_type, {})).to_dict(), "mixing_multiplier": 0.5}
    with pytest.raises(UnsupportedModel, match=r"mixing_multiplier=0\.5"):
        read_spec(config, load_architecture(model_type))


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_another_activation_is_refused_by_name(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, **OPEN.get(model_type, {})).to_dict()
    key = next((k for k in ("hidden_activation", "activation_function") if k in config), "hidden_act")
    config[key] = "relu"
    with pytest.raises(UnsupportedModel, match=f"{key}='relu'"):
        read_spec(config, load_architecture(model_type))


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_every_role_has_a_tensor_name(model_type: str) -> None:
    literal = load_architecture(model_type)
    for role, _ in roles(spec_from(model_type)):
        assert split_role(role)[2] in literal.tensors


@pytest.mark.parametrize(
    ("role", "split"),
    [
        ("embedding", (None, None, "embedding")),
        ("layers.3.q", (3, None, "layers.{i}.q")),
        ("layers.12.experts.7.up", (12, 7, "layers.{i}.experts.{e}.up")),
        ("layers.0.ffn.gate_bias", (0, None, "layers.{i}.ffn.gate_bias")),
    ],
)
def test_roles_split_into_layer_expert_and_template(role: str, split: tuple[Any, ...]) -> None:
    assert split_role(role) == split
