"""Recovery end to end: the packed model learns the next tokens that the original predicts."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edgepress.compress.recover.part import Part
from edgepress.compress.recover.student import Student
from edgepress.compress.recover.teacher import Teacher
from edgepress.compress.recover.tuning import Tuner
from edgepress.progress import Track, silent


def tune_logits(
    student: Student, parts: Mapping[str, Part], teacher: Teacher, ids: np.ndarray, rates: Mapping[str, float],
    *, steps: int, batch: int = 1, seed: int = 0, track: Track = silent, log=None,
) -> None:
    tuner = Tuner(parts.values(), rates, steps)
    order = shuffled(len(ids), steps * batch, seed)
    for step in track(range(steps), "distilling"):
        chunks = order[step * batch : (step + 1) * batch]
        loss = teacher.divergence(chunks, predict(student, parts, torch.from_numpy(ids[chunks])))
        loss.backward()
        tuner.step(step)
        if log: log(step, loss.item())


def predict(student: Student, parts: Mapping[str, Part], ids: Tensor) -> Tensor:
    """Logits [n, S, V] of chunks; matrices are multiplied in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        states = student.run_embedding(parts["embedding"], ids)
        for i in range(student.spec.layers):
            states = student.run_layer(i, parts[f"layers.{i}"], states)
        return student.run_head(parts["output"], parts["embedding"], states)


def shuffled(count: int, length: int, seed: int) -> list[int]:
    """`length` numbers below `count`, all equally often as far as that goes."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(count) for _ in range(-(-length // count))]
    return np.concatenate(rounds)[:length].tolist()
