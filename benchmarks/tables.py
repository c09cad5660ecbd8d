"""From rounds to tables: minimum, median, maximum, and the ratio to the best peer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.rounds import OTHERS, Rounds

OURS = "edgepress"


@dataclass(frozen=True)
class Quantity:
    """What is measured.

    Attributes:
        unit: of the values.
        higher_is_better: True for speeds, False for times and sizes; None for what is not compared.
        target: the ratio to the best peer that is aimed at; None where there is none.
    """

    unit: str
    higher_is_better: bool | None
    target: float | None = None


@dataclass(frozen=True)
class Row:
    """One quantity of one engine; `ratio` above 1 is better than the best peer's median, None for the peers."""

    quantity: str
    engine: str
    unit: str
    minimum: float
    median: float
    maximum: float
    samples: list[float]
    ratio: float | None
    target: float | None


@dataclass(frozen=True)
class Table:
    title: str
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_table(title: str, rounds: Rounds, quantities: Mapping[str, Quantity]) -> Table:
    """Every quantity of every engine that has it, in the order of `quantities`; last how quiet the machine was."""
    every = {**quantities, OTHERS: Quantity("cores", None)}
    return Table(title, [row for name, quantity in every.items() for row in _rows(name, quantity, rounds)])


def _rows(name: str, quantity: Quantity, rounds: Rounds) -> Iterator[Row]:
    engines = [engine for engine, values in rounds[0].items() if name in values]
    samples = {engine: [turn[engine][name] for turn in rounds] for engine in engines}
    peers = [median(samples[engine]) for engine in engines if not engine.startswith(OURS)]
    for engine, values in samples.items():
        ratio = _ratio(median(values), peers, quantity.higher_is_better) if engine.startswith(OURS) else None
        target = None if ratio is None else quantity.target
        yield Row(name, engine, quantity.unit, min(values), median(values), max(values), values, ratio, target)


def _ratio(value: float, peers: Sequence[float], higher_is_better: bool | None) -> float | None:
    """How many times better than the best peer."""
    if higher_is_better is None or not peers:
        return None
    return value / max(peers) if higher_is_better else min(peers) / value


def markdown(tables: Sequence[Table], machine: Mapping[str, Any]) -> str:
    """The report: the machine, then one table per list of rows."""
    lines = ["# Benchmarks", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    for table in tables:
        lines += [f"## {table.title}", ""]
        lines += ["| quantity | engine | min | median | max | unit | x best peer | target |", "|---|---|" + "---:|" * 6]
        lines += [_line(row) for row in table.rows]
        lines.append("")
    return "\n".join(lines)


def _line(row: Row) -> str:
    numbers = [f"{value:.4g}" for value in (row.minimum, row.median, row.maximum)]
    ratio, target = (("" if value is None else f"{value:.3g}") for value in (row.ratio, row.target))
    return f"| {' | '.join([row.quantity, row.engine, *numbers, row.unit, ratio, target])} |"
