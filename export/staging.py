"""A bundle appears under its name only when it is whole: written beside its target, synced, renamed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepress.errors import InputError
from edgepress.files import sync, sync_folder


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden folder `.<name>.partial` next to the target, which becomes the target at the end of the block.

    It is removed if the block fails; what a killed run left in it is removed first.

    Raises:
        InputError: another process is writing the same target.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.partial")
    with _owned(staging, folder):
        try:
            for leftover in staging.iterdir():
                leftover.unlink()
            yield staging
            sync_folder(staging)
            os.rename(staging, folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _owned(staging: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of the staging folder, which the system drops when a process dies."""
    staging.mkdir(exist_ok=True)
    fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(fd, staging, folder)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, staging: Path, folder: Path) -> None:
    busy = InputError(f"another export is writing {folder}; wait for it or choose another folder")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    # Between opening and locking, the former owner may have renamed or removed the folder.
    if not staging.exists() or os.fstat(fd).st_ino != staging.stat().st_ino:
        raise busy
