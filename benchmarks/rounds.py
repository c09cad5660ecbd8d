"""Contestants take turns, so that heat, frequency and neighbours hit them alike; what was measured outlives a kill."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edgepress.progress import Track, silent

# One contestant's turn: quantity -> value.
Values = dict[str, float]
# Contestant -> its turn, in each round.
Rounds = list[dict[str, Values]]

OTHERS = "cores kept busy by other programs"


def load_rounds(path: Path) -> Rounds:
    """The rounds that were measured so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def run_rounds(
    path: Path, contestants: Mapping[str, Callable[[], Values]], count: int, *, track: Track = silent
) -> Rounds:
    """Measure every contestant once per round, until `path` holds `count` rounds; every other round runs backwards.

    `path` (JSON) is replaced after each round; a later call goes on where it ends.
    """
    rounds = load_rounds(path)
    turns = list(contestants.items())
    for index in track(range(len(rounds), count), f"rounds of {path.stem}"):
        order = turns if index % 2 == 0 else turns[::-1]
        measured = {name: _watched(measure) for name, measure in order}
        rounds.append({name: measured[name] for name in contestants})
        write_text(path, json.dumps(rounds, indent=1))
    return rounds


def _watched(measure: Callable[[], Values]) -> Values:
    """A turn, and how many cores other programs kept busy during it: figures are worth less the more there are."""
    start, busy = time.perf_counter(), _busy_seconds()
    values = measure()
    others = max(0.0, _busy_seconds() - busy) / (time.perf_counter() - start)
    return values | {OTHERS: others}


def _busy_seconds() -> float:
    """CPU seconds that every program but this one and its finished children has used since the machine started."""
    fields = [int(n) for n in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    own = os.times()
    all_programs = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return all_programs - own.user - own.system - own.children_user - own.children_system


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
