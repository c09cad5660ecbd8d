"""Weights come out of a checkpoint as transformers loads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from edgepress.checkpoint import INDEX, open_checkpoint
from edgepress.roles import roles
from tests.tiny import OF_TYPE, tiny_checkpoint


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_every_role_has_the_bytes_it_claims(model_type: str, tiny: Callable[[str], Path]) -> None:
    checkpoint = open_checkpoint(tiny(model_type))
    for role, shape in roles(checkpoint.spec):
        array = checkpoint.tensor(role)
        assert array.shape == shape
        assert array.nbytes == checkpoint.bytes_of(role)


def test_tensors_are_those_of_transformers(tiny: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny("qwen3_moe"), dtype=torch.float16)
    layer = model.model.layers[1]
    checkpoint = open_checkpoint(tiny("qwen3_moe"))
    gate_up = layer.mlp.experts.gate_up_proj[3].detach().numpy()
    assert np.array_equal(checkpoint.tensor("layers.1.experts.3.gate"), gate_up[:64])
    assert np.array_equal(checkpoint.tensor("layers.1.experts.3.up"), gate_up[64:])
    assert np.array_equal(checkpoint.tensor("layers.1.k"), layer.self_attn.k_proj.weight.detach().numpy())


def test_stacked_experts_are_sliced(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "stacked")
    weights = load_file(folder / "model.safetensors")
    for i in range(2):
        stem = f"model.layers.{i}.mlp.experts"
        of = {p: [weights.pop(f"{stem}.{e}.{p}_proj.weight") for e in range(8)] for p in ("gate", "up", "down")}
        weights[f"{stem}.gate_up_proj"] = np.concatenate([np.stack(of["gate"]), np.stack(of["up"])], axis=1)
        weights[f"{stem}.down_proj"] = np.stack(of["down"])
    save_file(weights, folder / "model.safetensors")
    single, stacked = open_checkpoint(tiny("qwen3_moe")), open_checkpoint(folder)
    for role, _ in roles(single.spec):
        assert np.array_equal(single.tensor(role), stacked.tensor(role))
        assert single.bytes_of(role) == stacked.bytes_of(role)


def test_shards_are_one_model(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny("llama"))
    model.save_pretrained(tmp_path, max_shard_size="500KB")
    assert (tmp_path / INDEX).exists()
    whole, sharded = open_checkpoint(tiny("llama")), open_checkpoint(tmp_path)
    assert np.array_equal(whole.tensor("head"), sharded.tensor("head"))


@pytest.mark.parametrize(
    ("dtype", "stored", "dtype16"),
    [("float16", "F16", "float16"), ("bfloat16", "BF16", "bfloat16"), ("float32", "F32", "float16")],
)
def test_dtypes(dtype: str, stored: str, dtype16: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("llama", tmp_path / "model", dtype=dtype))
    assert (checkpoint.dtypes, checkpoint.dtype16) == ([stored], dtype16)
    assert checkpoint.tensor("layers.0.q").dtype.name == dtype


def test_a_stored_copy_of_a_tied_head_is_ignored(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "model", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, folder / "model.safetensors")
    assert open_checkpoint(folder).spec.tied_head


def test_an_array_outlives_its_file(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "model")
    norm = open_checkpoint(folder).tensor("final_norm")
    before = norm.copy()
    (folder / "model.safetensors").write_bytes(b"")
    assert np.array_equal(norm, before)
