"""Choosing one option for every unit: the least cost within a budget of bytes (multiple-choice knapsack)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

_GAP = 5e-3  # relative to the optimum; closing it can take minutes on thousands of experts


@dataclass(frozen=True)
class Option:
    """One way to store a unit: its format, the bytes it takes, and what it costs in accuracy."""

    name: str
    nbytes: int
    cost: float


def allocate(units: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """The options, one for each unit, that together cost the least within the budget; deterministic.

    To within 0.5% of the least cost: the linear relaxation, rounded down, where that is close enough to its own bound,
    as with thousands of units; otherwise a mixed-integer programme, one binary variable per option, solved by HiGHS.

    Args:
        units: the options of each unit.
        budget: bytes, at least smallest_size(units).
    """
    rounded, bound = _relaxed(units, budget)
    if sum(option.cost for option in rounded) <= bound * (1 + _GAP):
        return rounded
    return _exact(units, budget)


def _relaxed(units: Sequence[Sequence[Option]], budget: int) -> tuple[list[Option], float]:
    """(options within the budget, a bound that no choice undercuts): steps along each unit's convex hull of bytes and
    cost, those that save most per byte first (Sinha and Zoltners, 1979)."""
    hulls = [_hull(options) for options in units]
    steps = [
        (_saving(below, above), unit, index)
        for unit, hull in enumerate(hulls)
        for index, (below, above) in enumerate(pairwise(hull), 1)
    ]
    at = [0] * len(hulls)
    spare = budget - sum(hull[0].nbytes for hull in hulls)
    bound = None
    cost = fsum(hull[0].cost for hull in hulls)
    for saving, unit, index in sorted(steps, key=lambda step: (-step[0], *step[1:])):
        if index != at[unit] + 1:  # the step before it did not fit
            continue
        hull = hulls[unit]
        size = hull[index].nbytes - hull[index - 1].nbytes
        if size <= spare:
            at[unit], spare = index, spare - size
            cost -= saving * size
        elif bound is None:
            bound = cost - saving * spare
    return [hull[i] for hull, i in zip(hulls, at, strict=True)], cost if bound is None else bound


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull, from the smallest to the cheapest."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.nbytes, o.cost)):
        if hull and option.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _saving(hull[-1], option) >= _saving(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _saving(below: Option, above: Option) -> float:
    """Cost that each byte more saves."""
    return (below.cost - above.cost) / (above.nbytes - below.nbytes)


def _exact(units: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    spare = budget - smallest_size(units)
    smallest = [min(o.nbytes for o in options) for options in units]
    open_to = [
        (unit, option)
        for unit, options in enumerate(units)
        for option in options
        if option.nbytes - smallest[unit] <= spare
    ]
    extra = np.array([option.nbytes - smallest[unit] for unit, option in open_to], np.float64)
    taken = _solve(np.array([unit for unit, _ in open_to]), np.array([o.cost for _, o in open_to]), extra, spare)
    chosen = [option for (_, option), yes in zip(open_to, taken, strict=True) if yes]
    excess = sum(option.nbytes for option in chosen) - budget
    return chosen if excess <= 0 else _exact(units, budget - excess)  # the solver's tolerance


def _solve(unit: np.ndarray, cost: np.ndarray, extra: np.ndarray, spare: int) -> np.ndarray:
    """Which variables are 1: one per unit, of least total cost, with sum(extra) <= spare."""
    count = len(unit)
    one_per_unit = csr_array((np.ones(count), (unit, np.arange(count))))
    # Scaled to about 1, so that the solver's absolute tolerances mean little.
    cost_scale = max(np.median(cost[cost > 0]), cost.max() * 1e-6) if (cost > 0).any() else 1.0
    byte_scale = extra[extra > 0].min() if (extra > 0).any() else 1.0
    result = milp(
        cost / cost_scale,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_per_unit, 1, 1),
            LinearConstraint(extra[None] / byte_scale, 0, spare / byte_scale),
        ],
        options={"mip_rel_gap": _GAP},
    )
    assert result.x is not None, result.message  # the smallest options are always a solution
    return result.x > 0.5


def smallest_size(units: Sequence[Sequence[Option]]) -> int:
    """Bytes of all units, each in its smallest option."""
    return sum(min(option.nbytes for option in options) for options in units)
