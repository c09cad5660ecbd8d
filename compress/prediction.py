"""From the summed costs of a plan's formats to the KL divergence that it will have."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log


@dataclass(frozen=True)
class Prediction:
    """mean KL = scale * cost ** power + slope * cost of the experts left out, in nats.

    The power would be 1 if noise were small; where noise makes routers choose other experts it is less, since such
    choices grow as the square root of what a sum of squares measures.

    Attributes:
        slope: measured nats per predicted one, where the cost was largest.
        lost: the cost of the experts that are left out anyway.
    """

    scale: float = 1.0
    power: float = 1.0
    slope: float = 1.0
    lost: float = 0.0

    def kl(self, formats: float, absent: float = 0.0) -> float:
        """Of the summed costs of formats, and of experts left out."""
        return self.scale * float(formats) ** self.power + self.slope * float(absent + self.lost)

    def cost(self, kl: float) -> float:
        """What formats may cost for this KL divergence, which must be above what is lost anyway."""
        return float((kl - self.slope * self.lost) / self.scale) ** (1 / self.power)


def fit(points: Sequence[tuple[float, float]]) -> Prediction:
    """The prediction that is right for measured (cost, mean KL): one or two, the larger first; others count as none."""
    points = [(float(cost), kl) for cost, kl in points if cost > 0 and kl > 0]
    if not points:
        return Prediction()
    (cost, kl), *more = points
    power = 1.0
    if more and more[0][0] < cost and more[0][1] < kl:
        power = log(kl / more[0][1]) / log(cost / more[0][0])
    return Prediction(exp(log(kl) - power * log(cost)), power, kl / cost)
