"""Layers that keep states of fixed size where others attend: which tensors and states they have."""

from collections.abc import Iterator
from dataclasses import dataclass

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Mixer:
    """What takes the place of attention in `layers`. The fields that a kind does not have are 0.

    Attributes:
        kind: short_convolution: LFM2's gated convolution over the last `kernel` tokens.
            gated_delta: Qwen3-Next's gated delta rule, linear attention after a convolution.
        key_heads, value_heads, key_dim, value_dim: of the delta rule.
    """

    kind: str
    layers: tuple[int, ...]
    kernel: int
    bias: bool = False
    key_heads: int = 0
    value_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0

    @property
    def output(self) -> str:
        """The role of the last matrix."""
        return {"short_convolution": "conv_out", "gated_delta": "delta_out"}[self.kind]

    @property
    def keys(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        return self.value_heads * self.value_dim

    def channels(self, hidden: int) -> int:
        """Of the convolution."""
        return hidden if self.kind == "short_convolution" else 2 * self.keys + self.values

    def roles(self, hidden: int) -> Shapes:
        """The (role, shape) pairs of one such layer."""
        yield "conv", (self.channels(hidden), 1, self.kernel)
        yield from self._short_convolution(hidden) if self.kind == "short_convolution" else self._gated_delta(hidden)

    def states(self, hidden: int) -> Shapes:
        """(name, shape without the batch) of what one such layer keeps."""
        yield "conv", (self.channels(hidden), self.kernel - 1)
        if self.kind == "gated_delta":
            yield "recurrent", (self.value_heads, self.key_dim, self.value_dim)

    def _short_convolution(self, hidden: int) -> Shapes:
        yield "conv_in", (3 * hidden, hidden)
        yield "conv_out", (hidden, hidden)
        if self.bias:
            yield from (("conv_in_bias", (3 * hidden,)), ("conv_bias", (hidden,)), ("conv_out_bias", (hidden,)))

    def _gated_delta(self, hidden: int) -> Shapes:
        yield "delta_in", (2 * self.keys + 2 * self.values, hidden)
        yield "delta_gates", (2 * self.value_heads, hidden)
        yield "delta_decay", (self.value_heads,)
        yield "delta_time", (self.value_heads,)
        yield "delta_norm", (self.value_dim,)
        yield "delta_out", (hidden, self.values)
