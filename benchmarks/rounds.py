"""Contestants take turns, so that heat, frequency and neighbours hit them alike; what was measured outlives a kill."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from edgepress.progress import Track, silent

# One contestant's turn: quantity -> value.
Values = dict[str, float]
# Contestant -> its turn, in each round.
Rounds = list[dict[str, Values]]


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
        measured = {name: measure() for name, measure in order}
        rounds.append({name: measured[name] for name in contestants})
        write_text(path, json.dumps(rounds, indent=1))
    return rounds


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
