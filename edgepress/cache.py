"""Arrays that were long in the making, kept by the content that they were computed from.

An array is `<key>.npy`, and appears under that name only when it is whole. Once the folder is full, those go first that
were not used for longest.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.files import sync
from edgepress.units import parse_size

LIMIT = 10_000_000_000  # bytes
_PARTIAL = ".partial"


class Cache:
    """A folder of arrays, made when the first one is stored; `limit`: bytes that it may take."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit

    def get(self, key: str) -> np.ndarray | None:
        """The array, mapped read-only, or None; it counts as used."""
        path = self._path(key)
        try:
            array = np.load(path, mmap_mode="r")
            with suppress(PermissionError):
                os.utime(path)
        except FileNotFoundError:
            return None
        except (ValueError, EOFError):  # cut short by a crash
            path.unlink(missing_ok=True)
            return None
        return array

    def put(self, key: str, shape: Sequence[int], dtype: Any, rows: Iterable[np.ndarray]) -> np.ndarray:
        """Store an array of which `rows` are the entries of the first axis, in order, and map it read-only.

        Raises:
            OSError: the disk is too small or fills up, with the file's name.
        """
        path, size = self._path(key), prod(shape) * np.dtype(dtype).itemsize
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        if size > shutil.disk_usage(self.folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        with self._partial(key) as partial:
            _write(partial, shape, np.dtype(dtype), rows)
            sync(partial)
            partial.rename(path)
        return np.load(path, mmap_mode="r")

    def offer(self, key: str, array: np.ndarray) -> None:
        """Store an array if there is room; that there is none is no error."""
        if self.admits(array.nbytes):
            with suppress(OSError):
                self.put(key, array.shape, array.dtype, array)

    def admits(self, size: int) -> bool:
        """Whether an array of so many bytes may be stored, and finds room on the disk."""
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return (self.limit is None or size <= self.limit) and size <= shutil.disk_usage(there).free

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def _make_room(self, size: int) -> None:
        if self.limit is None:
            return
        held = [(path.stat(), path) for path in self.folder.glob("*.npy")]
        total = sum(facts.st_size for facts, _ in held)
        for facts, path in sorted(held, key=lambda found: found[0].st_mtime_ns):
            if total + size <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= facts.st_size

    @contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        """A file beside the target, locked while it is written, so that what a killed process left can be told."""
        for left in self.folder.glob(f".*{_PARTIAL}"):
            with suppress(OSError), left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
        with NamedTemporaryFile(dir=self.folder, prefix=f".{key}-", suffix=_PARTIAL, delete=False) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            path = Path(file.name)
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)


def default_cache() -> Cache | None:
    """EDGEPRESS_CACHE, else $XDG_CACHE_HOME/edgepress, else ~/.cache/edgepress; None where none can be written.

    EDGEPRESS_CACHE_SIZE bounds it: 10GB unless it says otherwise; 0 keeps nothing.

    Raises:
        InputError: EDGEPRESS_CACHE_SIZE is no size.
    """
    size = os.environ.get("EDGEPRESS_CACHE_SIZE", str(LIMIT))
    if size == "0":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("EDGEPRESS_CACHE") or Path(base, "edgepress")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Cache(folder, parse_size(size)) if os.access(folder, os.W_OK | os.X_OK) else None


@contextmanager
def room_for(size: int, cache: Cache | None) -> Iterator[Cache]:
    """The cache if it admits so many bytes, else one in the temporary folder (TMPDIR) that goes with the block."""
    if cache is not None and cache.admits(size):
        yield cache
        return
    with TemporaryDirectory(prefix="edgepress-") as folder:
        yield Cache(Path(folder))


def _write(path: Path, shape: Sequence[int], dtype: np.dtype, rows: Iterable[np.ndarray]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for _, row in zip(range(shape[0]), rows, strict=True):
                assert row.shape == tuple(shape[1:])
                file.write(np.ascontiguousarray(row, dtype).data)
    except OSError as error:  # a write names no file
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None
