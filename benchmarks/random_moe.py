"""Writes a random-weight Qwen3-MoE checkpoint in Hugging Face layout, shard by shard, in little memory.

For speed, memory and load time at real shapes; random weights have no accuracy. The defaults make 2.77 B parameters.

    python -m benchmarks.random_moe OUT --tokenizer FOLDER [--layers 8 --hidden 2048 --experts 64 ...]
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    experts: int
    top_k: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int


def main(
    out: Path,
    tokenizer: Annotated[Path, typer.Option(help="Folder whose tokenizer files are copied.")],
    layers: int = 8,
    hidden: int = 2048,
    experts: int = 64,
    top_k: int = 8,
    intermediate: int = 768,
    heads: int = 32,
    kv_heads: int = 4,
    head_dim: int = 128,
    vocab: int = 49152,
    context: int = 4096,
) -> None:
    """Write OUT, which must not exist."""
    shape = Shape(layers, hidden, experts, top_k, intermediate, heads, kv_heads, head_dim, vocab, context)
    write_checkpoint(out, shape, tokenizer)


def write_checkpoint(out: Path, shape: Shape, tokenizer: Path) -> None:
    """float16 weights of deviation 0.02, norms of 1; one shard per layer, and one for embedding and head."""
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    index: dict[str, str] = {}
    for number, tensors in enumerate(_shards(shape, rng), 1):
        name = f"model-{number:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(tensors, out / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (out / "config.json").write_text(json.dumps(_config(shape), indent=1))
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copy(file, out)


def _shards(shape: Shape, rng: np.random.Generator) -> Iterator[Tensors]:
    for i in range(shape.layers):
        yield {f"model.layers.{i}.{name}": tensor for name, tensor in _layer(shape, rng).items()}
    yield {
        "model.embed_tokens.weight": _random(rng, shape.vocab, shape.hidden),
        "model.norm.weight": np.ones(shape.hidden, np.float16),
        "lm_head.weight": _random(rng, shape.vocab, shape.hidden),
    }


def _layer(s: Shape, rng: np.random.Generator) -> Tensors:
    query, key = s.heads * s.head_dim, s.kv_heads * s.head_dim
    matrices = {
        "self_attn.q_proj": (query, s.hidden),
        "self_attn.k_proj": (key, s.hidden),
        "self_attn.v_proj": (key, s.hidden),
        "self_attn.o_proj": (s.hidden, query),
        "mlp.gate": (s.experts, s.hidden),
    }
    for e in range(s.experts):
        matrices[f"mlp.experts.{e}.gate_proj"] = matrices[f"mlp.experts.{e}.up_proj"] = (s.intermediate, s.hidden)
        matrices[f"mlp.experts.{e}.down_proj"] = (s.hidden, s.intermediate)
    norms = {
        "input_layernorm": s.hidden,
        "post_attention_layernorm": s.hidden,
        "self_attn.q_norm": s.head_dim,
        "self_attn.k_norm": s.head_dim,
    }
    tensors = {f"{name}.weight": _random(rng, *shape) for name, shape in matrices.items()}
    return tensors | {f"{name}.weight": np.ones(size, np.float16) for name, size in norms.items()}


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16)


def _config(s: Shape) -> dict[str, object]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "torch_dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "moe_intermediate_size": s.intermediate,
        "intermediate_size": 4 * s.hidden,
        "num_experts": s.experts,
        "num_experts_per_tok": s.top_k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": s.context,
        "vocab_size": s.vocab,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


if __name__ == "__main__":
    typer.run(main)
