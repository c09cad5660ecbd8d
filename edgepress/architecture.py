"""What a model is, as data: `ModelSpec`, and the `Architecture` literal that reads one from config.json.

A literal in `edgepress/architectures/<model_type>.py` is a `ModelSpec` whose leaves may be `From(key)`: the reader
fills them in from config.json, and refuses every key that the literal neither reads, accepts nor ignores.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from edgepress import architectures
from edgepress.errors import CheckpointError, UnsupportedModel
from edgepress.sanity import check_relations, check_types

_REQUIRED = object()


@dataclass(frozen=True)
class _From:
    key: str
    default: Any


def From(key: str, default: Any = _REQUIRED) -> Any:  # noqa: N802 - reads as a type in the literals
    """A leaf read from config.json; `default` (a value, or another From) is used where the key is absent or null."""
    return _From(key, default)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. `kind` is transformers' rope_type; `scaling` holds that kind's own parameters."""

    theta: float = From("rope_theta", 10000.0)
    kind: str = From("rope_type", "default")
    scaling: Mapping[str, float] = From("rope_scaling", {})
    partial: float = From("partial_rotary_factor", 1.0)
    interleaved: bool = False  # pairs are neighbours instead of halves apart


@dataclass(frozen=True)
class Attention:
    """`kind` gqa: grouped-query attention. mla: DeepSeek's latent attention (the `*_rank` fields)."""

    heads: int = From("num_attention_heads")
    kv_heads: int = From("num_key_value_heads", From("num_attention_heads"))
    head_dim: int = From("head_dim", None)
    kind: str = "gqa"
    qk_norm: str = ""  # "", "head" (per head) or "full" (over the whole projection)
    qkv_bias: bool = From("attention_bias", False)
    output_bias: bool = From("attention_bias", False)
    clip: float | None = None  # q, k and v clamped to [-clip, clip]
    window: int | None = None
    q_rank: int | None = None
    kv_rank: int = 0
    rope_head_dim: int = 0
    value_head_dim: int = 0
    latent_epsilon: float = 1e-6  # of the norms inside latent attention

    @property
    def rotated(self) -> int:
        """The size that rotary embeddings apply to."""
        return self.rope_head_dim if self.kind == "mla" else self.head_dim


@dataclass(frozen=True)
class Routing:
    """The attributes of the `Route` op; see runtime/kernels/OPS.md."""

    k: int = From("num_experts_per_tok")
    score: str = "softmax"
    normalize: bool = False
    epsilon: float = 0.0
    correction_bias: bool = False
    scaling: float = 1.0
    groups: int = 1
    kept_groups: int = 1
    group_score: str = "max"


@dataclass(frozen=True)
class Experts:
    """The routed experts of a layer, and the shared expert beside them (intermediate size 0: none)."""

    count: int
    intermediate: int
    routing: Routing
    shared_intermediate: int = 0
    shared_count: int = 1  # the shared expert is `shared_count` times `shared_intermediate` wide
    shared_gate: bool = False
    first_dense: int = 0  # layers before this one are dense
    step: int = 1  # layer i has experts where (i + 1) % step == 0 ...
    dense_layers: tuple[int, ...] = ()  # ... and i is not listed here


@dataclass(frozen=True)
class ModelSpec:
    """Everything that a reader of the model must know; no weights."""

    attention: Attention
    experts: Experts | None = None
    model_type: str = From("model_type")
    vocab_size: int = From("vocab_size")
    hidden_size: int = From("hidden_size")
    layers: int = From("num_hidden_layers")
    intermediate: int = From("intermediate_size", 0)  # of dense layers
    mlp_bias: bool = False
    activation: str = From("hidden_act", "silu")
    norm_epsilon: float = From("rms_norm_eps", 1e-6)
    rope: Rope = field(default_factory=Rope)
    tied_head: bool = From("tie_word_embeddings", False)
    context: int = From("max_position_embeddings", 2048)

    def has_experts(self, layer: int) -> bool:
        x = self.experts
        return x is not None and layer >= x.first_dense and (layer + 1) % x.step == 0 and layer not in x.dense_layers

    @property
    def expert_layers(self) -> list[int]:
        return [i for i in range(self.layers) if self.has_experts(i)]


@dataclass(frozen=True)
class Architecture:
    """A model family as data.

    tensors: role -> name in the checkpoint, with `{i}` for the layer and `{e}` for the expert.
    fused: the same for checkpoints that stack a layer's experts in one tensor [E, ...].
    accepts: config keys whose value must be one of those listed (anything else is refused by name).
    ignores: config keys that do not change the function computed.
    ignored_tensors: regular expressions of tensors that are named as ignored.
    """

    spec: ModelSpec
    tensors: Mapping[str, str]
    fused: Mapping[str, str] = field(default_factory=dict)
    accepts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignores: tuple[str, ...] = ()
    ignored_tensors: tuple[str, ...] = ()


def known_architectures() -> list[str]:
    return sorted(m.name for m in iter_modules(architectures.__path__) if not m.name.startswith("_"))


def load_architecture(model_type: str) -> Architecture:
    """The literal of `model_type`; raises UnsupportedModel naming it and the known ones."""
    if model_type not in known_architectures():
        known = ", ".join(known_architectures())
        raise UnsupportedModel(f"unknown model_type {model_type!r} in config.json; known: {known}")
    literal: Architecture = import_module(f"edgepress.architectures.{model_type}").ARCHITECTURE
    return literal


# Facts of training, packaging and token ids: they do not change the function computed.
_METADATA = frozenset(
    [
        "architectures",
        "auto_map",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "tie_encoder_decoder",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_name_or_path",
        "_attn_implementation_autoset",
        "pretraining_tp",
        "max_window_layers",
    ]
)


def read_spec(config: Mapping[str, Any], literal: Architecture) -> ModelSpec:
    """Fill the literal's spec from config.json; every other fact is accepted, ignored, or refused by name.

    Raises:
        CheckpointError: a required key is missing or is not a sensible number.
        UnsupportedModel: a fact that is not handled.
    """
    flat = _flatten_rope(config)
    used: set[str] = set()
    spec: ModelSpec = _resolve(literal.spec, flat, used)
    _check_facts(flat, literal, used)
    _check_rope(spec.rope, spec.model_type)
    check_types(spec)
    attention = spec.attention
    if attention.head_dim is None:
        spec = replace(spec, attention=replace(attention, head_dim=spec.hidden_size // attention.heads))
    check_relations(spec)
    return spec


def _flatten_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """One shape for the two ways in which transformers writes rotary parameters."""
    flat = {k: v for k, v in config.items() if k not in ("rope_parameters", "rope_scaling")}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"rope_parameters in config.json is {rope!r}; a mapping is needed")
    rope = dict(rope)
    flat["rope_type"] = rope.pop("rope_type", rope.pop("type", "default")) or "default"
    rope.pop("type", None)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            flat[key] = rope.pop(key)
    flat["rope_scaling"] = rope
    return flat


def _resolve(node: Any, config: Mapping[str, Any], used: set[str]) -> Any:
    if isinstance(node, _From):
        used.add(node.key)
        if isinstance(node.default, _From):
            used.add(node.default.key)
        value = config.get(node.key)
        if value is None and node.default is _REQUIRED:
            raise CheckpointError(f"config.json lacks {node.key!r}; the model cannot be described without it")
        value = _resolve(node.default, config, used) if value is None else value
        return tuple(value) if isinstance(value, list) else value
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{f.name: _resolve(getattr(node, f.name), config, used) for f in fields(node)})
    return node


def _check_facts(config: Mapping[str, Any], literal: Architecture, used: set[str]) -> None:
    for key, value in config.items():
        if key in literal.accepts:
            if value is not None and value not in literal.accepts[key]:
                raise UnsupportedModel(
                    f"config.json has {key}={value!r}, which edgepress does not handle for {config['model_type']}; "
                    f"handled: {', '.join(repr(v) for v in literal.accepts[key])}"
                )
        elif key not in used and key not in _METADATA and key not in literal.ignores and value is not None:
            raise UnsupportedModel(
                f"config.json has {key}={value!r}, which edgepress does not know for {config['model_type']}; "
                "remove it if it does not change what the model computes"
            )


# What each kind of rotary scaling reads besides theta.
_ROPE_PARAMETERS = {
    "default": frozenset[str](),
    "linear": frozenset(["factor"]),
    "llama3": frozenset(["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]),
    "yarn": frozenset(["factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
                       "mscale", "mscale_all_dim", "truncate"]),
}  # fmt: skip


def _check_rope(rope: Rope, model_type: str) -> None:
    known = _ROPE_PARAMETERS.get(rope.kind, frozenset(rope.scaling))
    if extra := sorted(rope.scaling.keys() - known):
        raise UnsupportedModel(
            f"config.json has the rotary parameter {extra[0]}={rope.scaling[extra[0]]!r}, which edgepress does not "
            f"know for rope_type {rope.kind!r} of {model_type}"
        )


def roles(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every (role, shape) that a model of this spec consists of. Matrices are [out, in]."""
    yield "embedding", (spec.vocab_size, spec.hidden_size)
    for i in range(spec.layers):
        for name, shape in layer_roles(spec, i):
            yield f"layers.{i}.{name}", shape
    yield "final_norm", (spec.hidden_size,)
    if not spec.tied_head:
        yield "head", (spec.vocab_size, spec.hidden_size)


def layer_roles(spec: ModelSpec, i: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The (role, shape) pairs of layer i, without the `layers.{i}.` prefix."""
    yield "attention_norm", (spec.hidden_size,)
    yield from (_mla_roles(spec) if spec.attention.kind == "mla" else _gqa_roles(spec))
    yield "ffn_norm", (spec.hidden_size,)
    if spec.has_experts(i):
        yield from _expert_roles(spec)
    else:
        yield from _swiglu("ffn", spec.hidden_size, spec.intermediate)
        if spec.mlp_bias:
            yield from (("ffn.gate_bias", (spec.intermediate,)), ("ffn.up_bias", (spec.intermediate,)))
            yield "ffn.down_bias", (spec.hidden_size,)


def _gqa_roles(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    a, hidden = spec.attention, spec.hidden_size
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    for name, rows in (("q", q), ("k", kv), ("v", kv)):
        yield name, (rows, hidden)
        if a.qkv_bias:
            yield f"{name}_bias", (rows,)
    yield "o", (hidden, q)
    if a.output_bias:
        yield "o_bias", (hidden,)
    if a.qk_norm:
        full = a.qk_norm == "full"
        yield "q_norm", (q if full else a.head_dim,)
        yield "k_norm", (kv if full else a.head_dim,)


def _mla_roles(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    a, hidden = spec.attention, spec.hidden_size
    q = a.heads * (a.head_dim + a.rope_head_dim)
    if a.q_rank:
        yield from (("q_a", (a.q_rank, hidden)), ("q_a_norm", (a.q_rank,)), ("q_b", (q, a.q_rank)))
    else:
        yield "q", (q, hidden)
    yield "kv_a", (a.kv_rank + a.rope_head_dim, hidden)
    yield "kv_a_norm", (a.kv_rank,)
    yield "kv_b", (a.heads * (a.head_dim + a.value_head_dim), a.kv_rank)
    yield "o", (hidden, a.heads * a.value_head_dim)


def _expert_roles(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    x = spec.experts
    assert x
    yield "router", (x.count, spec.hidden_size)
    if x.routing.correction_bias:
        yield "router_bias", (x.count,)
    for e in range(x.count):
        yield from _swiglu(f"experts.{e}", spec.hidden_size, x.intermediate)
    if x.shared_intermediate:
        yield from _swiglu("shared", spec.hidden_size, x.shared_intermediate * x.shared_count)
        if x.shared_gate:
            yield "shared_gate", (1, spec.hidden_size)


def _swiglu(prefix: str, hidden: int, intermediate: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate", (intermediate, hidden)
    yield f"{prefix}.up", (intermediate, hidden)
    yield f"{prefix}.down", (hidden, intermediate)


def split_role(role: str) -> tuple[int | None, int | None, str]:
    """`layers.3.experts.5.up` -> (3, 5, `layers.{i}.experts.{e}.up`)."""
    match = re.fullmatch(r"layers\.(\d+)\.(?:experts\.(\d+)\.)?(.+)", role)
    if not match:
        return None, None, role
    layer, expert, rest = match.groups()
    template = f"layers.{{i}}.experts.{{e}}.{rest}" if expert is not None else f"layers.{{i}}.{rest}"
    return int(layer), int(expert) if expert is not None else None, template


def parameters(spec: ModelSpec) -> int:
    """Number of weights, a tied head counted once."""
    total = 0
    for _, shape in roles(spec):
        count = 1
        for n in shape:
            count *= n
        total += count
    return total
