"""The reference forward: transformers' own modules, one decoder layer in memory at a time.

The model is built on torch's meta device, which holds no weights. For each layer in turn, its weights are read from
the checkpoint, the hidden states of all chunks pass through transformers' own decoder, cut down to that one layer
(so masks and rotary embeddings are the model's own), and the weights are dropped. Expert weights stay as they are
stored and become float32 one expert at a time; all arithmetic is in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from edgepress.architecture import layer_roles, split_role
from edgepress.checkpoint import Checkpoint
from edgepress.errors import InputError
from edgepress.layout import vector_name
from edgepress.progress import Track, silent

_IN_MEMORY = 500_000_000  # bytes of hidden states; more are mapped from a temporary file
_HEAD_ROWS = 16384  # rows of the head that are float32 at a time
_EXPERTS = "edgepress"

# expert, its input [n, H], gate weights [n], the input of its down projection [n, I], its output before the gate [n, H]
ExpertObserver = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]


def _experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Routed experts, one at a time in float32; `self.observer`, where set, sees each of them at work."""
    result = torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        token, slot = torch.where(top_k_index == expert)
        x, gate = hidden_states[token], top_k_weights[token, slot]
        inner = self._apply_gate(nn.functional.linear(x, self.gate_up_proj[expert].float()))
        output = nn.functional.linear(inner, self.down_proj[expert].float())
        if (observer := getattr(self, "observer", None)) is not None:
            observer(expert, x, gate, inner, output)
        result[token] += output * gate[:, None]  # a token comes to an expert once
    return result


ALL_EXPERTS_FUNCTIONS.register(_EXPERTS, _experts)


class ReferenceModel:
    """A checkpoint as transformers computes it (a `LogitsSource` of edgepress.runtime.evaluate)."""

    def __init__(self, checkpoint: Checkpoint, *, batch: int = 8, track: Track = silent) -> None:
        """`batch`: chunks that pass through a layer together; `track` follows the layers of `logits`."""
        self.checkpoint, self.spec, self._batch, self._track = checkpoint, checkpoint.spec, batch, track
        config = CONFIG_MAPPING[self.spec.model_type].from_dict(checkpoint.config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="sdpa", experts_implementation=_EXPERTS
            )
        self._decoder = model.eval().requires_grad_(False).model
        self._renamings, self._converters = _conversions(model)
        self._layers = list(self._decoder.layers)
        self._norm = self._decoder.norm
        self._decoder.norm = nn.Identity()
        self._decoder.rotary_emb = type(self._decoder.rotary_emb)(config)  # its buffers are in no checkpoint

    def logits(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """For each chunk of ids (int64 [n, S]), in order, its logits (float32 [S, V]).

        Raises:
            InputError: ids outside the vocabulary, or chunks longer than the model's context.
            CheckpointError: weights that cannot be read.
        """
        with self.embed(ids) as states:
            for i in self._track(range(self.spec.layers), "reference layers"):
                with self.layer(i):
                    self.advance(states)
            head = self._read("embedding" if self.spec.tied_head else "head")
            for chunk in self.normed(states):
                yield _head_logits(chunk, head)

    @contextmanager
    def embed(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """The input of the first layer, float32 [n, S, H], in a temporary file (TMPDIR) where it is large."""
        self._check_ids(ids)
        embedding = self._read("embedding")
        with _states((*ids.shape, self.spec.hidden_size)) as states:
            for chunk, tokens in zip(states, torch.from_numpy(ids), strict=True):
                chunk[:] = embedding[tokens].float().numpy()
            del embedding
            yield states

    @contextmanager
    def layer(self, i: int) -> Iterator[nn.Module]:
        """Decoder layer i with its weights, for `advance`."""
        layer = self._layers[i]
        layer.load_state_dict(self._layer_weights(i), assign=True)
        self._decoder.layers = nn.ModuleList([layer])
        try:
            yield layer
        finally:
            layer.to("meta")

    def advance(self, states: np.ndarray) -> None:
        """Replace the layer's input (float32 [n, S, H]) by its output, in place."""
        with torch.no_grad():
            for start in range(0, len(states), self._batch):
                batch = torch.from_numpy(states[start : start + self._batch])
                batch[:] = self._decoder(inputs_embeds=batch, use_cache=False).last_hidden_state

    def normed(self, states: np.ndarray) -> Iterator[Tensor]:
        """For each chunk, what the head reads (float32 [S, H]): the last layer's output after the final norm."""
        self._norm.load_state_dict({"weight": self._read("final_norm").float()}, assign=True)
        for chunk in states:
            with torch.no_grad():
                normed = self._norm(torch.from_numpy(chunk))
            yield normed

    def local_name(self, role: str) -> str:
        """What transformers' layer calls the parameter of a role: `layers.0.q` -> `self_attn.q_proj.weight`."""
        name, _ = rename_source_key(vector_name(self.spec, role), self._renamings, self._converters)
        return name.removeprefix(f"model.layers.{split_role(role)[0]}.")

    def _layer_weights(self, i: int) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        shapes = {name: parameter.shape for name, parameter in self._layers[i].named_parameters()}
        for short, _ in layer_roles(self.spec, i):
            role = f"layers.{i}.{short}"
            name, tensor = self.local_name(role), self._read(role)
            _, expert, template = split_role(role)
            if expert is None:
                weights[name] = tensor.float()
                continue
            if name not in weights:
                weights[name] = torch.empty(shapes[name], dtype=tensor.dtype)
            start = len(tensor) if template.endswith(".up") else 0
            weights[name][expert, start : start + len(tensor)] = tensor
        return weights

    def _read(self, role: str) -> Tensor:
        array = self.checkpoint.tensor(role)
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def _check_ids(self, ids: np.ndarray) -> None:
        if ids.shape[1] > self.spec.context:
            raise InputError(f"chunks of {ids.shape[1]} tokens exceed the model's context of {self.spec.context}")
        unknown = ids[(ids < 0) | (ids >= self.spec.vocab_size)]
        if unknown.size:
            raise InputError(
                f"token {unknown[0]} is not in the model's vocabulary of {self.spec.vocab_size}; "
                "is this the model's own tokenizer?"
            )


def _conversions(model: PreTrainedModel) -> tuple[list[Any], list[Any]]:
    """transformers' own map from the checkpoint's tensor names to its parameters: (renamings, fusions)."""
    conversions = get_model_conversion_mapping(model)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    return renamings, [c for c in conversions if not isinstance(c, WeightRenaming)]


@contextmanager
def _states(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    if 4 * np.prod(shape, dtype=np.int64) <= _IN_MEMORY:
        yield np.empty(shape, np.float32)
        return
    with TemporaryDirectory(prefix="edgepress-") as folder:
        yield np.memmap(Path(folder) / "states.f32", np.float32, "w+", shape=shape)


def _head_logits(states: Tensor, head: Tensor) -> np.ndarray:
    """states [S, H], head [V, H] of any float type -> float32 [S, V]."""
    logits = np.empty((len(states), len(head)), np.float32)
    for row in range(0, len(head), _HEAD_ROWS):
        rows = slice(row, row + _HEAD_ROWS)
        logits[:, rows] = nn.functional.linear(states, head[rows].float()).numpy()
    return logits
