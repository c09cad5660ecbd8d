"""The command line, in this process or in one of its own, and what a refusal must look like."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAIN = "from edgepress.cli import main; main()"


@dataclass(frozen=True)
class Result:
    returncode: int | str | None
    stdout: str
    stderr: str


# Runs a command whose failure must mention the given words.
Refused = Callable[[Sequence[object], Sequence[str]], Result]


def in_a_process(arguments: Sequence[object], cwd: Path, *, code: str = MAIN, before: Sequence[str] = (),
                 timeout: int = 120) -> Result:  # fmt: skip
    """`code` in a process of its own; `before` is a command that runs it, such as unshare or setpriv."""
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout)
    return Result(done.returncode, done.stdout, done.stderr)


def assert_one_line_error(result: Result, mentions: Sequence[str]) -> None:
    assert (result.returncode, result.stdout) == (1, ""), result
    assert result.stderr.startswith("error: "), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "unexpected" not in result.stderr
    for mention in mentions:
        assert mention in result.stderr, result.stderr


def files_under(folder: Path) -> dict[str, int]:
    """Everything in a folder, hidden things too: path -> size."""
    return {str(p.relative_to(folder)): p.lstat().st_size for p in folder.rglob("*")}
