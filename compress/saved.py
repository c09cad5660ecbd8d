"""What a pass over the layers has found so far, kept in a cache folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np


class _Findings(Protocol):
    def save(self, path: Path) -> None: ...


T = TypeVar("T", bound=_Findings)


class Saved(Generic[T]):
    """Findings in a cache folder: `<key>.npz` when finished, until then `<key>/<layers done>/`.

    A folder appears under its name only when it is complete.
    """

    def __init__(self, cache: Path, key: str, read: Callable[[Path], T]) -> None:
        """`read` reads what T.save wrote."""
        self.result = cache / f"{key}.npz"
        self._folder, self._read = cache / key, read

    def load(self, states: np.ndarray) -> tuple[int, T] | None:
        """The layers done and the findings; fills `states`, what passes from layer to layer."""
        done = [int(p.name) for p in self._folder.glob("*") if p.name.isdecimal()]
        if not done:
            return None
        folder = self._folder / str(max(done))
        states[:] = np.load(folder / "states.npy", mmap_mode="r")
        return max(done), self._read(folder / "statistics.npz")

    def store(self, done: int, states: np.ndarray, findings: T) -> None:
        partial = self._folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        np.save(partial / "states.npy", states)
        findings.save(partial / "statistics.npz")
        os.rename(partial, self._folder / str(done))
        shutil.rmtree(self._folder / str(done - 1), ignore_errors=True)

    def finish(self, findings: T) -> None:
        findings.save(self.result)
        shutil.rmtree(self._folder)
