"""Files that must be whole: positioned writes whose errors name the file, forcing to the disk, hashes; JSON."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.errors import CheckpointError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name into an OSError of the block; an operation on a descriptor names none."""
    try:
        yield
    except OSError as cause:
        raise OSError(cause.errno, cause.strerror, str(path)) from None


def write_at(descriptor: int, array: np.ndarray, offset: int, path: Path) -> None:
    """Write a contiguous array's bytes at `offset`; raises an OSError that names `path`."""
    view = array.reshape(-1).view(np.uint8).data
    with naming(path):
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a folder and the files in it to the disk."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, error: type[Exception] = CheckpointError) -> dict[str, Any]:
    """A JSON object from a file; raises `error` with the path and the cause."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path} is not valid JSON: {cause}") from None
    if not isinstance(value, dict):
        raise error(f"{path} holds a {type(value).__name__}; a JSON object is needed")
    return value
