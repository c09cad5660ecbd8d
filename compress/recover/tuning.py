"""How tensors are trained: Adam, with a rate for each kind of them, falling to zero along a cosine."""

from collections.abc import Iterable, Mapping
from math import cos, pi

import torch
from torch import nn

from edgepress.compress.recover.part import Part


class Tuner:
    """Steps over the parameters of some parts.

    Args:
        rates: kind -> learning rate, in the units of its parameters; other kinds stay as they are.
        steps: how many there will be.
    """

    def __init__(self, parts: Iterable[Part], rates: Mapping[str, float], steps: int) -> None:
        self._steps, self._rates = steps, dict(rates)
        groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in rates}
        for part in parts:
            for _, kind, parameter in part.parameters():
                parameter.requires_grad_(kind in rates)
                if kind in rates:
                    groups[kind].append(parameter)
        used = [{"params": group, "lr": rates[kind], "kind": kind} for kind, group in groups.items() if group]
        self._adam = torch.optim.Adam(used, betas=(0.9, 0.95), fused=True)

    def step(self, number: int) -> None:
        """Step `number` (0, 1, ...), with the gradients that have come together since the last one."""
        share = (1 + cos(pi * number / self._steps)) / 2 * min(1.0, (number + 1) / 10)
        for group in self._adam.param_groups:
            group["lr"] = self._rates[group["kind"]] * share
        self._adam.step()
        self._adam.zero_grad()
