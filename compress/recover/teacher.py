"""The original model's most probable next tokens, kept on disk: what the packed model is taught to predict."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgepress.checkpoint import Checkpoint
from edgepress.compress.apply import source_fingerprint
from edgepress.compress.reference import ReferenceModel
from edgepress.plan import fingerprint
from edgepress.progress import Track, silent

TOP = 128  # tokens kept of each position
_GROUP = 16  # chunks that pass through the model together


class Teacher:
    """For each position of some chunks, the TOP most probable next tokens and their log-probabilities.

    They lie in a folder as `<key>.tokens.npy` (int32 [n, S, K]) and `<key>.logs.npy` (float16 [n, S, K]); `<key>.json`
    counts the chunks that are done, so that a later call with the same checkpoint and ids goes on.

    Raises:
        InputError: ids that are not the model's.
        CheckpointError: weights that cannot be read.
    """

    def __init__(
        self, checkpoint: Checkpoint, ids: np.ndarray, folder: Path, *, track: Track = silent, memory: int | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _key(checkpoint, ids)
        self._shape = (*ids.shape, min(TOP, checkpoint.spec.vocab_size))
        self._tokens, self._logs = self._open("tokens", "<i4"), self._open("logs", "<f2")
        groups = range(self._done(), len(ids), _GROUP)
        model = ReferenceModel(checkpoint, memory=memory)
        for start in track(groups, "asking the original"):
            for n, logits in enumerate(model.logits(ids[start : start + _GROUP]), start):
                logs, tokens = torch.from_numpy(logits).log_softmax(-1).topk(self._shape[-1])
                self._tokens[n], self._logs[n] = tokens.numpy(), logs.numpy()
            self._set_done(min(start + _GROUP, len(ids)))

    def divergence(self, chunks: list[int], logits: Tensor) -> Tensor:
        """Mean KL divergence of the packed model's logits [n, S, V] for chunks from the original's.

        All tokens but the most probable ones count as one.
        """
        tokens = torch.from_numpy(self._tokens[chunks]).long()
        logs = torch.from_numpy(self._logs[chunks].astype(np.float32))
        logits = logits.float()
        guess = logits.gather(-1, tokens) - logits.logsumexp(-1, keepdim=True)
        return (logs.exp() * (logs - guess)).sum(-1).add(_rest(logs, guess)).mean()

    def _open(self, name: str, dtype: str) -> np.ndarray:
        path = self._path.with_suffix(f".{name}.npy")
        mode = "r+" if path.exists() else "w+"
        return np.lib.format.open_memmap(path, mode, dtype, self._shape)

    def _done(self) -> int:
        path = self._path.with_suffix(".json")
        return int(json.loads(path.read_text())) if path.exists() else 0

    def _set_done(self, count: int) -> None:
        for array in (self._tokens, self._logs):
            array.flush()  # type: ignore[attr-defined]
        temporary = self._path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(count))
        temporary.rename(self._path.with_suffix(".json"))


def _rest(logs: Tensor, guess: Tensor) -> Tensor:
    """The divergence of all other tokens together."""
    others = (1 - logs.exp().sum(-1)).clamp_min(1e-6)
    guessed = (1 - guess.exp().sum(-1)).clamp_min(1e-6)
    return others * (others.log() - guessed.log())


def _key(checkpoint: Checkpoint, ids: np.ndarray) -> str:
    facts = [source_fingerprint(checkpoint), fingerprint(checkpoint.spec), ids.shape, TOP]
    text = json.dumps(facts).encode() + np.ascontiguousarray(ids, "<i8").tobytes()
    return hashlib.sha256(text).hexdigest()[:16]
