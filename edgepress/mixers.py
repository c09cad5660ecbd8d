"""Layers that keep a state of fixed size where others attend: which tensors they have."""

from collections.abc import Iterator
from dataclasses import dataclass

Roles = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Mixer:
    """What takes the place of attention in `layers`.

    `kind` short_convolution: LFM2's gated convolution over the last `kernel` tokens.
    """

    kind: str
    layers: tuple[int, ...]
    kernel: int
    bias: bool = False

    @property
    def output(self) -> str:
        """The role of the last matrix."""
        return "conv_out"

    def roles(self, hidden: int) -> Roles:
        """The (role, shape) pairs of one such layer."""
        yield "conv_in", (3 * hidden, hidden)
        yield "conv", (hidden, 1, self.kernel)
        yield "conv_out", (hidden, hidden)
        if self.bias:
            yield from (("conv_in_bias", (3 * hidden,)), ("conv_bias", (hidden,)), ("conv_out_bias", (hidden,)))
