"""Runs programs under a memory limit: a control group (cgroup) of their own, page cache included."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgepress.errors import RuntimeFailure

GROUPS = Path("/sys/fs/cgroup")
# Where groups with a memory controller are made, and the file that limits one: versions 1 and 2.
VERSIONS = ((GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max"))
JOIN = 'echo $$ > "$0" && exec "$@"'


@contextmanager
def memory_limit(limit: int) -> Iterator[Path]:
    """A group whose programs, `inside` it, may take `limit` bytes together.

    Raises:
        RuntimeFailure: this user or system cannot make one.
    """
    group = Path()
    try:
        parent, setting = next(v for v in VERSIONS if (v[0] / "cgroup.procs").exists())
        group = parent / f"edgepress-{os.getpid()}"
        group.mkdir()
        (group / setting).write_text(str(limit), encoding="utf-8")
    except (OSError, StopIteration) as cause:
        if group.name and group.is_dir():
            group.rmdir()
        raise RuntimeFailure(f"no memory limit can be set: no cgroup is writable ({cause or 'none mounted'})") from None
    try:
        yield group
    finally:
        group.rmdir()


def obstacle() -> str:
    """Why no memory limit can be set here; empty where it can."""
    try:
        with memory_limit(1 << 30):
            return ""
    except RuntimeFailure as failure:
        return str(failure)


def inside(group: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """The command, as one that joins the group first."""
    return ["sh", "-c", JOIN, group / "cgroup.procs", *command]


def drop_from_cache(file: Path) -> None:
    """Take a file's pages out of the page cache, so that who reads it next is charged for them."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
